"""The command `foxden`: one small module per subcommand."""
