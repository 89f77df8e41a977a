"""Updates of the installed program: signed, staged, only when nobody minds, and rolled back."""
