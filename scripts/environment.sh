# Sourced by scripts/up, scripts/run and scripts/test, which set $root. Makes .venv if it is missing or out of date, and sets $python
# to its interpreter. Needs bash, and Python 3.11 or newer with venv.

environment="$root/.venv"
python="$environment/bin/python"

# .venv contains a copy of the lock that it was made from. The copy is written last.
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

# With -P before every -m, Python imports our packages from this checkout, not from the current directory.
export PYTHONPATH="$root"
