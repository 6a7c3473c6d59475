#!/bin/sh
# Create a virtual environment and install SynthMorph into it, with CPU-only PyTorch unless there is an NVIDIA GPU.
#
#   Utilities/setup_venv.sh VENV [demo] [dev] [host]
#
# PYTHON  which Python to use (default: python3 if it is 3.10 to 3.14, else the newest such python3.x)
# TORCH   which PyTorch release to install (default below); CPU=1 forces the CPU build even beside a GPU
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, pip.conf ...) are obeyed.
set -eu
venv=$1
shift
TORCH=${TORCH:-2.13.0}
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

usable() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python3.14}; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    say "no Python 3.10 to 3.14 found; install python3 and python3-venv, or name one: make PYTHON=/path/to/python3.12"
    return 1
}

# Debian ships Python without ensurepip, which venv needs; a container's root may add it
add_venv_support() {
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $package"
        { apt-get update && apt-get install -y --no-install-recommends "$package"; } >/dev/null
    else
        say "this Python cannot make virtual environments; run: sudo apt-get install $package"
        return 1
    fi
}

has_gpu() { [ -z "${CPU:-}" ] && command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

pip() { "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }

# uv knows where PyTorch keeps its builds for each kind of machine; the package index itself has only the CUDA one
pytorch_build() { pip uv && "$venv/bin/uv" --quiet pip install --python "$venv/bin/python" --torch-backend="$1" "torch==$TORCH"; }

# Only "there is no such build" is a reason to look elsewhere; a full disk or a broken network is not, and the default
# build would need several times the space
cpu_build_elsewhere() {
    case $1 in
        *"No matching distribution"*) ;;
        *"No space left"*) say "the disk is full; this needs up to 4 GB where $venv is and 1 GB in ${TMPDIR:-/tmp}"; return 1 ;;
        *) say "$1"; return 1 ;;
    esac
    if ! pytorch_build cpu 2>/dev/null; then
        say "no CPU build of PyTorch $TORCH can be reached; installing the default build, several GB with CUDA libraries"
        pip "torch==$TORCH"
    fi
}

install_torch() {
    if "$venv/bin/python" -c 'import torch' 2>/dev/null; then
        return
    fi
    if [ "$(uname -s)" != Linux ]; then
        pip "torch==$TORCH"  # the builds for macOS and Windows on the package index are CPU builds
    elif has_gpu; then
        say "installing PyTorch $TORCH for the GPU"
        pytorch_build auto 2>/dev/null || pip "torch==$TORCH"
    else
        say "installing PyTorch $TORCH for the CPU"
        why=$(pip "torch==$TORCH+cpu" 2>&1) || cpu_build_elsewhere "$why"
    fi
}

python=$(find_python)
say "using $("$python" -c 'import sys; print(sys.executable, sys.version.split()[0])') in $venv"
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || add_venv_support
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
install_torch
say "installing SynthMorph"
pip --editable .
for extra in "$@"; do
    case $extra in
        demo) ;;
        host) pip --editable ".[host]" || say "the Slicer module's tests will be skipped: no slicer-core or PySide6 here" ;;
        *) pip --editable ".[$extra]" ;;
    esac
done
# nilearn only for the template inside; its many dependencies are not needed, and pip must not miss them above
case " $* " in *" demo "*) pip --no-deps "nilearn>=0.10.4" ;; esac
