#!/usr/bin/env bash
# onnxruntime 1.32 for Linux writes a time and an identifier into the temporary folder (.ses) when it is imported. The next process keeps the
# identifier that it finds there; disable_telemetry_events() right after the import is too late. Whether anything is sent is not examined.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
python3 -m venv "$W/venv"
"$W/venv/bin/pip" install --quiet onnxruntime==1.32.0
mkdir "$W/one" "$W/other"
imported() { # folder, statement: the identifier in the folder afterwards
    TMPDIR="$W/$1" "$W/venv/bin/python" -c "import onnxruntime; $2"
    if [ -f "$W/$1/.ses" ]; then sed -n 2p "$W/$1/.ses"; fi
}
FIRST=$(imported one pass); SECOND=$(imported one pass); DISABLED=$(imported other "onnxruntime.disable_telemetry_events()")
echo "first process: $FIRST, second: $SECOND, in another folder with telemetry disabled: $DISABLED"
[ -n "$FIRST" ] && [ "$FIRST" = "$SECOND" ] && [ -n "$DISABLED" ] || { echo "it has changed"; exit 1; }
