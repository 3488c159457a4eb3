# The same names as the Makefile's targets, and helpers for long runs. `just` comes with `make sync` (.venv/bin/just).

set positional-arguments

run_dir := "outputs/background"

# list the recipes
default:
    @just --list

venv:
    @make venv

sync:
    @make sync

data:
    @make data

run:
    @make run

test:
    @make test

lint:
    @make lint

type:
    @make type

bench:
    @make bench

# transcribe files or a manifest: just transcribe "--model-id packaged:moonshine-tiny --audio clip.wav"
[no-exit-message]
transcribe options:
    @.venv/bin/moonshine-lora transcribe {{ options }}

# start an experiment in the background: just run-experiment "--config configs/domain.toml"
run-experiment options:
    #!/bin/sh
    set -eu
    mkdir -p {{ run_dir }}
    if [ -f {{ run_dir }}/pid ] && kill -0 "$(cat {{ run_dir }}/pid)" 2>/dev/null; then
        echo "error: an experiment is running (process $(cat {{ run_dir }}/pid)); see just status" >&2
        exit 2
    fi
    rm -f {{ run_dir }}/exit
    nohup sh -c '.venv/bin/python -m lora.runners.experiment {{ options }}; echo $? >{{ run_dir }}/exit' >{{ run_dir }}/output.txt 2>&1 &
    echo $! >{{ run_dir }}/pid
    echo "started as process $!; just poll shows the output, just status the state"

# show what the background experiment has printed
poll:
    @tail -n 40 {{ run_dir }}/output.txt

# say whether the background experiment is running, and how it ended
status:
    #!/bin/sh
    set -eu
    if [ ! -f {{ run_dir }}/pid ]; then
        echo "error: no experiment was started; see just run-experiment" >&2
        exit 2
    elif [ -f {{ run_dir }}/exit ]; then
        echo "ended with exit code $(cat {{ run_dir }}/exit) (0 accepted, 3 rejected by the gate, 4 inconclusive, 2 refused)"
    elif kill -0 "$(cat {{ run_dir }}/pid)" 2>/dev/null; then
        echo "running as process $(cat {{ run_dir }}/pid)"
    else
        echo "killed before it ended; see just poll"
    fi
