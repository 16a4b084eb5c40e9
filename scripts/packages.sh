# Sourced by the other scripts: installs Debian packages that are missing, when it may.

# need PACKAGE...: one at a time, since apt-get gives up when another runs.
need() {
  missing=""
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
  done
  [ -z "$missing" ] && return 0
  if [ "$(id -u)" = 0 ]; then
    become=""
  elif sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; then  # asks for a password only where somebody can give it
    become="sudo"
  else
    echo "error: missing packages:$missing; install them with apt-get install$missing" >&2
    exit 2
  fi
  log=$(mktemp)
  if ! $become flock /var/lib/dpkg sh -c "apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing" >"$log" 2>&1; then
    cat "$log" >&2
    exit 2
  fi
  rm -f "$log"
}

# quietly COMMAND...: its output is shown only when it fails.
quietly() {
  log=$(mktemp)
  "$@" >"$log" 2>&1 || { status=$?; cat "$log" >&2; rm -f "$log"; exit "$status"; }
  rm -f "$log"
}
