# Sourced by the scripts of this folder: reads flags, prints commands and runs them.
# shellcheck shell=bash
set -euo pipefail

dry_run=
rest=()

fail() {
  echo "${0##*/}: $1; --help tells more" >&2
  exit 2
}

# read_flags "NEEDED…" "OPTIONAL…" "SWITCHES…" ARGUMENTS…
# --flag=value sets the variable of this name, --switch sets it to 1; what follows -- is `rest`.
read_flags() {
  local needed=$1 optional=$2 switches="$3 dry_run" flag
  shift 3
  while (($#)); do
    flag=${1%%=*}
    flag=${flag#--}
    case $1 in
      -h | --help)
        # The comment that the script opens with.
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
      --)
        shift
        rest=("$@")
        break
        ;;
      --*=*)
        [[ " $needed $optional " == *" $flag "* ]] || fail "unknown flag --$flag="
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
  for flag in $needed; do
    [[ -n ${!flag} ]] || fail "--$flag= is needed"
  done
}

# Words as one line that a shell reads back as these words.
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
