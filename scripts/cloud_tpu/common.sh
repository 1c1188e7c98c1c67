# Sourced by the scripts of this folder: parses flags, prints and runs commands.
# shellcheck shell=bash
set -euo pipefail

dry_run=
rest=()

fail() {
  echo "${0##*/}: $1; see --help" >&2
  exit 2
}

# read_flags "REQUIRED…" "OPTIONAL…" "SWITCHES…" ARGUMENTS…
# --flag=value sets the variable of this name, --switch sets it to 1; arguments after -- are `rest`.
read_flags() {
  local required=$1 optional=$2 switches="$3 dry_run" flag
  shift 3
  while (($#)); do
    flag=${1%%=*}
    flag=${flag#--}
    case $1 in
      -h | --help)
        # The opening comment of the script.
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
      --)
        shift
        rest=("$@")
        break
        ;;
      --*=*)
        [[ " $required $optional " == *" $flag "* ]] || fail "unknown flag --$flag="
        printf -v "$flag" '%s' "${1#*=}"
        ;;
      --*)
        [[ " $switches " == *" $flag "* ]] || fail "unknown flag $1 (a flag with a value is --flag=value)"
        printf -v "$flag" 1
        ;;
      *) fail "unexpected argument $1" ;;
    esac
    shift
  done
  for flag in $required; do
    [[ -n ${!flag} ]] || fail "--$flag= is required"
  done
}

# Prints arguments as one line that a shell parses into the same arguments.
quoted() {
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

# Prints a command; runs it unless --dry_run is given.
run() {
  quoted "$@"
  [[ -n $dry_run ]] || "$@"
}

# tpu VERB ARGUMENTS…: gcloud's commands for TPU VMs, in the zone and project of the flags.
# shellcheck disable=SC2154 # each script has zone and project
tpu() {
  run gcloud compute tpus tpu-vm "$@" "--zone=$zone" ${project:+"--project=$project"}
}
