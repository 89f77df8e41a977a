; The Windows installer: for one user, no administrator's rights, no console window.
;
;   foxden-VERSION-windows-x86_64-setup.exe [/S] [/JOIN=<link>] [/FETCHENGINE] [/NOSTART] [/D=C:\folder]
;   uninstall.exe [/S] [/PURGE]
;
; Compiled by packaging/windows/build_installer.py, which defines VERSION, PAYLOAD (the bundle's
; folder) and OUT. Exit codes: 0 done, 1 cancelled, 2 a file could not be replaced, 3 not joined: then
; the reason is on the last page, and in join-failed.txt of the folder that it was installed into.

Unicode true
Target amd64-unicode
SetCompressor /SOLID lzma
!include MUI2.nsh
!include FileFunc.nsh
!include LogicLib.nsh

; Wine's cmd has no mklink: where this is tried there, another command is given.
!ifndef MAKE_LINK
    !define MAKE_LINK 'cmd /c mklink /J "$INSTDIR\current" "$INSTDIR\versions\${VERSION}"'
!endif
!define ARP "Software\Microsoft\Windows\CurrentVersion\Uninstall\Foxden"
!define RUN "Software\Microsoft\Windows\CurrentVersion\Run"

Name "Foxden ${VERSION}"
OutFile "${OUT}"
RequestExecutionLevel user
InstallDir "$LOCALAPPDATA\Programs\Foxden"
; An update by hand goes where the first installation went.
InstallDirRegKey HKCU "${ARP}" "InstallLocation"
ShowInstDetails nevershow
ShowUnInstDetails nevershow
VIProductVersion "${VERSION}.0"
VIAddVersionKey ProductName "Foxden"
VIAddVersionKey FileDescription "Foxden's installer"
VIAddVersionKey FileVersion "${VERSION}"
VIAddVersionKey LegalCopyright "Apache-2.0"

Var Join
Var FetchEngine
Var NoStart
Var LastWords

!define MUI_ICON "foxden.ico"
!define MUI_UNICON "foxden.ico"
!define MUI_FINISHPAGE_RUN "$INSTDIR\current\foxdenw.exe"
!define MUI_FINISHPAGE_RUN_PARAMETERS "service"
!define MUI_FINISHPAGE_RUN_TEXT "Start Foxden now"
!define MUI_FINISHPAGE_TITLE_3LINES
!define MUI_FINISHPAGE_TEXT_LARGE
!define MUI_FINISHPAGE_TEXT "$LastWords"
!insertmacro MUI_PAGE_DIRECTORY
!insertmacro MUI_PAGE_INSTFILES
!insertmacro MUI_PAGE_FINISH
!insertmacro MUI_UNPAGE_CONFIRM
!insertmacro MUI_UNPAGE_INSTFILES
!insertmacro MUI_LANGUAGE "English"

; The service hands over what is being drawn and ends; what does not answer is ended.
!macro StopFoxden
    ${If} ${FileExists} "$INSTDIR\current\foxden.exe"
        DetailPrint "Stopping Foxden"
        nsExec::Exec /TIMEOUT=40000 '"$INSTDIR\current\foxden.exe" service --stop'
        Pop $0
    ${EndIf}
    ${If} $0 != 0
        nsExec::Exec /TIMEOUT=10000 'cmd /c taskkill /F /IM foxdenw.exe /IM foxden.exe /FI "USERNAME eq %USERNAME%"'
        Pop $1
    ${EndIf}
!macroend

; The link in $0, the command line, goes to $Join. GetOptions would end it at its first slash.
Function ReadJoin
    StrCpy $Join ""
    StrCpy $1 0
    ${Do}
        StrCpy $2 $0 6 $1
        ${If} $2 == ""
            Return
        ${EndIf}
        ${If} $2 == "/JOIN="
            ${ExitDo}
        ${EndIf}
        IntOp $1 $1 + 1
    ${Loop}
    IntOp $1 $1 + 6
    ${Do}
        StrCpy $2 $0 1 $1
        IntOp $1 $1 + 1
        ${If} $2 == '"'
            ${If} $Join == ""
                ${Continue}
            ${EndIf}
            Return
        ${EndIf}
        ${If} $2 == ""
        ${OrIf} $2 == " "
            Return
        ${EndIf}
        StrCpy $Join "$Join$2"
    ${Loop}
FunctionEnd

Function .onInit
    ${GetParameters} $0
    Call ReadJoin
    StrCpy $LastWords "Foxden ${VERSION} is installed. Its page in the browser shows what is to be done next."
    ClearErrors
    ${GetOptions} $0 "/FETCHENGINE" $1
    ${IfNot} ${Errors}
        StrCpy $FetchEngine "--fetch-engine"
    ${EndIf}
    ClearErrors
    ${GetOptions} $0 "/NOSTART" $1
    ${IfNot} ${Errors}
        StrCpy $NoStart "yes"
    ${EndIf}
FunctionEnd

; Why `foxden join` failed: its exit code is in $0 (or what nsExec says instead), its words in $1.
Function SayNotJoined
    SetErrorLevel 3
    StrCpy $2 $1 8
    ${If} $2 == "foxden: "
        StrCpy $1 $1 "" 8
    ${EndIf}
    ${If} $0 == "timeout"
        StrCpy $1 "The pool did not answer within two minutes. $1"
    ${ElseIf} $0 == "error"
        StrCpy $1 "$INSTDIR\current\foxden.exe could not be started."
    ${ElseIf} $1 == ""
        StrCpy $1 "foxden join ended with code $0."
    ${EndIf}
    StrCpy $LastWords "Foxden ${VERSION} is installed, but this PC has not joined the pool.$\r$\n$\r$\n$1$\r$\nStart Foxden, and give its page in the browser a link that is good."
    ClearErrors
    FileOpen $2 "$INSTDIR\join-failed.txt" w
    ${IfNot} ${Errors}
        FileWriteUTF16LE /BOM $2 "$LastWords$\r$\n"
        FileClose $2
    ${EndIf}
FunctionEnd

Section "Foxden"
    StrCpy $0 0
    !insertmacro StopFoxden
    ; A folder of its own for each version: one that runs is never overwritten.
    SetOutPath "$INSTDIR\versions\${VERSION}"
    ClearErrors
    File /r "${PAYLOAD}/*.*"
    ${If} ${Errors}
        SetErrorLevel 2
        MessageBox MB_ICONSTOP|MB_OK "A file of Foxden could not be written: make space, or close the program that uses it, and start this again." /SD IDOK
        Abort
    ${EndIf}
    SetOutPath "$INSTDIR"
    ; RMDir without /r takes the junction and not what it leads to.
    RMDir "$INSTDIR\current"
    nsExec::Exec '${MAKE_LINK}'
    Pop $0
    ${IfNot} ${FileExists} "$INSTDIR\current\foxden.exe"
        SetErrorLevel 2
        MessageBox MB_ICONSTOP|MB_OK "$INSTDIR\current could not be made: choose a folder on a disk with the NTFS file system." /SD IDOK
        Abort
    ${EndIf}
    WriteUninstaller "$INSTDIR\uninstall.exe"
    CreateShortCut "$SMPROGRAMS\Foxden.lnk" "$INSTDIR\current\foxdenw.exe" "service" "$INSTDIR\current\foxdenw.exe"
    ; In the user's own session, where the tray, the keyring and the game are.
    WriteRegStr HKCU "${RUN}" "Foxden" '"$INSTDIR\current\foxdenw.exe" service'
    WriteRegStr HKCU "${ARP}" "DisplayName" "Foxden"
    WriteRegStr HKCU "${ARP}" "DisplayVersion" "${VERSION}"
    WriteRegStr HKCU "${ARP}" "DisplayIcon" "$INSTDIR\current\foxdenw.exe"
    WriteRegStr HKCU "${ARP}" "Publisher" "Foxden"
    WriteRegStr HKCU "${ARP}" "InstallLocation" "$INSTDIR"
    WriteRegStr HKCU "${ARP}" "UninstallString" '"$INSTDIR\uninstall.exe"'
    WriteRegStr HKCU "${ARP}" "QuietUninstallString" '"$INSTDIR\uninstall.exe" /S'
    WriteRegDWORD HKCU "${ARP}" "NoModify" 1
    WriteRegDWORD HKCU "${ARP}" "NoRepair" 1
    ${GetSize} "$INSTDIR" "/S=0K" $0 $1 $2
    WriteRegDWORD HKCU "${ARP}" "EstimatedSize" $0

    Delete "$INSTDIR\join-failed.txt"
    ${If} $Join != ""
        ; The link's secret is on this command line, as it was on the installer's; it is used up by it.
        nsExec::ExecToStack /TIMEOUT=120000 '"$INSTDIR\current\foxden.exe" join --yes $FetchEngine "$Join"'
        Pop $0
        Pop $1
        ${If} $0 != 0
            Call SayNotJoined
        ${EndIf}
    ${EndIf}
    IfSilent 0 done
    ${If} $NoStart != "yes"
        Exec '"$INSTDIR\current\foxdenw.exe" service'
    ${EndIf}
    done:
SectionEnd

Section "Uninstall"
    StrCpy $0 0
    !insertmacro StopFoxden
    StrCpy $2 "no"
    ${GetParameters} $0
    ClearErrors
    ${GetOptions} $0 "/PURGE" $1
    ${IfNot} ${Errors}
        StrCpy $2 "yes"
    ${Else}
        MessageBox MB_YESNO|MB_ICONQUESTION|MB_DEFBUTTON2 "Remove models, logs, settings and the engine too?" /SD IDNO IDNO keep
        StrCpy $2 "yes"
        keep:
    ${EndIf}
    ${If} $2 == "yes"
        ; The broker hears of it, and the key leaves the keyring; without a network the key goes all the same.
        nsExec::Exec /TIMEOUT=60000 '"$INSTDIR\current\foxden.exe" leave --all'
        Pop $0
        RMDir /r "$LOCALAPPDATA\Foxden"
    ${EndIf}
    DeleteRegValue HKCU "${RUN}" "Foxden"
    DeleteRegKey HKCU "${ARP}"
    Delete "$SMPROGRAMS\Foxden.lnk"
    RMDir "$INSTDIR\current"
    RMDir /r "$INSTDIR\versions"
    RMDir /r "$INSTDIR\updates"
    Delete "$INSTDIR\updates.json"
    Delete "$INSTDIR\join-failed.txt"
    Delete "$INSTDIR\uninstall.exe"
    RMDir "$INSTDIR"
SectionEnd
