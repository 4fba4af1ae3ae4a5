# SPDX-License-Identifier: BSD-3-Clause
"""The scripts of environments.py in which bollard and Apptainer differ on purpose, each with the reason."""

from __future__ import annotations

# ruff: noqa: E501

# By the name of the reason, a row of the table in docs/from-apptainer.md.
_REASONS = {
    "bash-itself": (
        "export A='x y' B=\"p  q\" C=r\\ s",
        "export A='$HOME' B=\"\\$HOME\" C=\\$HOME",
        "export A=$'tab\\there' B=$'new\\nline' C=$'q\\'q' D=$'\\x41\\u00e9\\101'",
        "export A=~ B=~/x C=/y:~/z D='~' E=\"~/q\"",
        "export A=1; export -n A",
        "readonly A=1; A=2; export B=2",
        "A=a-b-c; export B=${A/-/+} C=${A//-/+} D=${A//-} E=${A/#a/x} F=${A/%c/z}",
        "export A=\"${NONE:-a b}\" B=${NONE:-a b} C=\"${NONE:-'q'}\" D=${NONE:-'q'}",
        "A=abc; export B=${A@Q} C=${A@U}",
        "export A=$((0x1f)) B=$((010)) C=$((2#101)) D=$((-7/2)) E=$((~5)) F=$((1?2:3))",
        "export A=$((1/0)); export B=1",
        "export A=${PPID:+set} B=${BASH_VERSION:+set} C=${BASH:+set} D=${LINENO:+set} E=${RANDOM:+set}",
        "export A=${IFS:+set} B=${#IFS} C=$OPTIND D=${HOSTNAME:+set} E=${SHLVL:+set} F=${SECONDS:+set}",
        "export A=${BASH_SOURCE[0]} B=$0 C=${FUNCNAME[0]}",
        "export A=$(dirname ${BASH_SOURCE[0]})",
        "case a in a) export A=1 ;& b) export B=1 ;; esac",
        "case a in a) export A=1 ;;& *) export B=1 ;; esac",
        "shopt -s extglob; [[ abc == a+(b)c ]] && export A=1",
        "[[ abc == a+(b)c ]] && export A=1",
        "prepend() { export $1=\"$2${!1:+:${!1}}\"; }; prepend MANPATH /opt/man; prepend MANPATH /opt/two",
        "f() { export A=${FUNCNAME[0]}; }; f",
        "declare -i N=2+3; export N",
        "declare -u U=low; declare -l L=UP; export U L",
        "L=(a b); L+=(c); L[5]=f; export A=\"${L[*]}\" N=${#L[@]} K=\"${!L[*]}\"",
        "L=(a b c d); export A=\"${L[@]:1:2}\" B=\"${L[-1]}\" C=\"${L[@]/a/x}\" D=\"${L[@]#b}\"",
        "L=(a b c); unset L[1]; export A=\"${L[*]}\"",
        "L=(a b); IFS=:; export A=\"${L[*]}\"",
        "declare -A M=([k]=v [l]=w); export A=${M[k]} N=${#M[@]}",
        "let 'A = 3 * 4' B=2; export A B",
        "printf -v A '%s.%s' 1 2; export A",
        "exec 3>&1; export A=1; exec 3>&-",
        "coproc true; export A=1",
        "readonly R=1; R=2; export A=1",
        "export SCRIPT_DIR=\"$( cd \"$( dirname \"${BASH_SOURCE[0]}\" )\" && pwd )\"",
    ),
    "broken-script": (
        "export 1A=x; export B=1",
        "export A-B=1; export C=1",
        "source /opt/x/broken.sh; export A=1",
        "export A=1\nexport B=${x y}\nexport C=1",
    ),
    "script-arguments": (
        "X='a b c'; set -- $X; export A=$# B=$2",
        "export A=$# B=\"$*\" C=\"$@\" D=$1",
        "A='a,b,c'; IFS=',' ; set -- $A; export B=$2; unset IFS",
        "for x; do A=1; done; export B=${A:-none}",
        "set -- a b; source /opt/x/args.sh",
        "shift; export A=$?",
    ),
    "script-ends": (
        "export A=\"${NONE:?is needed}\"; export B=1",
        "exec true; export A=1",
        "exit 0",
        "export A=1; exit 3",
        "set -e; false; export A=1",
        "set -u; export A=$NONE; export B=1",
    ),
    "script-output": (
        "time true; export A=1",
        "echo -e 'a\\tb'; echo; printf 'x\\n'; export A=1",
        "echo one two; export A=1",
        "echo \"Welcome\"\nexport A=1",
        "cat << EOF\nWelcome to the image\nEOF\nexport A=1",
    ),
}
DIFFERENT = {script: reason for reason, scripts in _REASONS.items() for script in scripts}
