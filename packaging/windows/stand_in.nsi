; Stands in for foxden.exe where no Windows bundle was built: a Windows program that does nothing but
; write down how it was called, and to refuse a link that says so. With it the installer's own work can
; be tried.
Unicode true
Target amd64-unicode
SilentInstall silent
RequestExecutionLevel user
Name "Foxden's stand-in"
OutFile "${OUT}"
!include FileFunc.nsh
!include LogicLib.nsh
!include StrFunc.nsh
${StrStr}
!define REFUSAL "foxden: This link is over: ask for a new one.$\r$\n"
Section
    ${GetParameters} $0
    CreateDirectory "$LOCALAPPDATA\Foxden"
    FileOpen $1 "$LOCALAPPDATA\Foxden\stand-in-calls.txt" a
    FileSeek $1 0 END
    FileWrite $1 "$EXEFILE $0$\r$\n"
    FileClose $1
    ${StrStr} $1 $0 "/join/refused"
    ${If} $1 != ""
        StrLen $4 "${REFUSAL}"
        System::Call 'kernel32::GetStdHandle(i -12) p .r2'
        System::Call 'kernel32::WriteFile(p r2, m "${REFUSAL}", i r4, *i .r3, p 0)'
        SetErrorLevel 4
    ${EndIf}
SectionEnd
