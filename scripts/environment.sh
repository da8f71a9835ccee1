# Sourced by scripts/up and scripts/test, which set $root: makes .venv where it is missing or out of date, and sets
# $python to its interpreter. Needs bash and a Python of at least 3.11 with venv.

environment="$root/.venv"
python="$environment/bin/python"

# The environment keeps a copy of the lock it was made from, written last.
if ! { [ -x "$python" ] && cmp -s "$root/requirements.lock" "$environment/requirements.lock"; }; then
    base=""
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.13 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            base="$candidate"
            break
        fi
    done
    if [ -z "$base" ]; then
        echo "Python 3.11 or newer is needed; python3 here is: $(python3 --version 2>&1 || true)" >&2
        echo "Install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
        exit 1
    fi
    "$base" "$root/scripts/environment.py"
fi

# -P in front of every -m: only the checkout is searched for its packages, whatever directory this is called from.
export PYTHONPATH="$root"
