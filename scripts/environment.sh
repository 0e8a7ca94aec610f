# shellcheck shell=bash
# Sourced by the scripts beside it. `use_environment [EXTRA...]` makes .venv in the repository root from the pinned
# packages in constraints.txt, once, and puts it first on PATH. What was finished is written to .venv/stamp; while that
# fits, a start costs nothing. All messages go to stderr.
#
# PYTHON           which Python makes the environment (default python3; 3.11 or newer)
# PIP_*, pip.conf  pip's own settings work as usual, also where uv installs

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

use_environment() {
    local wanted="$*" pins
    pins="$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
    if ! stamp_fits; then
        (
            # Two starts at once: the second waits here and then finds the work done. The lock lives and ends with
            # this subshell, so that no server started later inherits it.
            if command -v flock >/dev/null; then flock 9; fi
            stamp_fits || make_environment
        ) 9>"$root/.venv.lock"
    fi
    export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
    # Many a container image sets it. Here it would have every process of a cluster compile torch and the rest anew.
    unset PYTHONDONTWRITEBYTECODE
}

# The stamp has three lines: the folder it was made in, the pins, and the extras that are installed.
stamp_fits() {
    local extra made_in="" made_from="" installed=""
    read_stamp
    [[ "$made_from" == "$pins" ]] && venv_fits || return 1
    for extra in $wanted; do
        [[ " $installed " == *" $extra "* ]] || return 1
    done
}

read_stamp() {
    if [[ -r "$venv/stamp" ]]; then
        { read -r made_in && read -r made_from && read -r installed; } <"$venv/stamp" || true
    fi
}

# A venv holds absolute paths and one Python's packages. Which python3 comes first on PATH may differ from shell to
# shell, and a running service lives in .venv: only a Python that is asked for by name makes it anew.
venv_fits() {
    [[ "$made_in" == "$root" && -x "$venv/bin/python" ]] || return 1
    [[ -z "${PYTHON:-}" || "$(identity "$PYTHON")" == "$(identity "$venv/bin/python")" ]]
}

identity() { "$1" -c 'import sys; print(sys.base_prefix, sys.version_info[:2])'; }

make_environment() {
    local made_in="" made_from="" installed="" extras requirement="$root" quiet=(--quiet)
    read_stamp
    # No stamp means an install that was broken off: nothing in it is trusted.
    if ! venv_fits; then
        make_venv
        installed=""
    fi
    rm -f "$venv/stamp"
    # Extras that another script installed stay.
    extras="$(tr ' ' '\n' <<<"$installed $wanted" | sort -u | xargs)"
    if [[ -n "$extras" ]]; then requirement="${root}[${extras// /,}]"; fi
    if [[ -t 2 ]]; then quiet=(); fi
    say "Installing Wan Serve's packages into .venv (once; a minute or a few)."
    install_with_uv --editable "$requirement" || install_with_pip --editable "$requirement" ||
        die "The packages could not be installed; pip's message above says why. The next start tries again."
    printf '%s\n' "$root" "$pins" "$extras" >"$venv/stamp"
}

install_with_pip() {
    "$venv/bin/python" -m pip install "${quiet[@]}" --disable-pip-version-check \
        --constraint "$root/constraints.txt" "$@" >&2
}

# uv needs less than half of pip's time. It is the one on PATH or else comes from the package index; where there is none,
# where pip has a setting that uv is not known to follow, or where uv fails, pip installs. Modules are compiled when they
# are first imported: of most of them that never happens. Ray's are compiled here, since it gives the processes that a
# cluster starts, all at once, only seconds to be there.
install_with_uv() {
    local uv words command
    if ! uv="$(command -v uv)"; then
        install_with_pip --retries 1 uv 2>/dev/null || return 1
        uv="$venv/bin/uv"
    fi
    words="$("$venv/bin/python" -m pip config list | "$venv/bin/python" "$root/scripts/uv_command.py" "$uv")" || return 1
    mapfile -t command <<<"$words"
    "${command[@]}" "${quiet[@]}" --python "$venv/bin/python" --constraint "$root/constraints.txt" "$@" >&2 || return 1
    "$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python3*/site-packages/ray/{_private,dashboard,serve,util} \
        >/dev/null 2>&1 || true
}

make_venv() {
    local python
    python="$(command -v "${PYTHON:-python3}")" ||
        die "Wan Serve needs Python 3.11 or newer, but there is no ${PYTHON:-python3}: install it or name one in PYTHON."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "Wan Serve needs Python 3.11 or newer, but ${PYTHON:-python3} is $("$python" -V 2>&1): name another in PYTHON."
    ensure_venv_module
    "$python" -m venv --clear "$venv" || die "Python could not make a virtual environment in $venv."
}

# Debian ships Python without ensurepip, which a venv needs to have pip.
ensure_venv_module() {
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then return; fi
    install_package python3-venv
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "Python's venv module is not complete: install it with your package manager (Debian, Ubuntu: python3-venv)."
}

# A program that the tests use and a bare machine lacks: `need_program curl`, for the Debian package of that name.
need_program() {
    if command -v "$1" >/dev/null; then return; fi
    install_package "$1"
    command -v "$1" >/dev/null || die "The tests need $1: install it with your package manager."
}

# Only root may, and only where there is apt-get; elsewhere the caller says what to install.
install_package() {
    if [[ "$(id -u)" != 0 ]] || ! command -v apt-get >/dev/null; then return; fi
    say "Installing from Debian: $*."
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; } \
        >/dev/null || die "apt-get could not install $*."
}
