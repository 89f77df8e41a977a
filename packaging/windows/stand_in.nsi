; Stands in for foxden.exe where no Windows bundle was built: a Windows program that does nothing but
; write down how it was called. With it the installer's own work can be tried.
Unicode true
Target amd64-unicode
SilentInstall silent
RequestExecutionLevel user
Name "Foxden's stand-in"
OutFile "${OUT}"
!include FileFunc.nsh
Section
    ${GetParameters} $0
    CreateDirectory "$LOCALAPPDATA\Foxden"
    FileOpen $1 "$LOCALAPPDATA\Foxden\stand-in-calls.txt" a
    FileSeek $1 0 END
    FileWrite $1 "$EXEFILE $0$\r$\n"
    FileClose $1
SectionEnd
