#!/usr/bin/env bash
# On a machine with one GPU, all that one is wanted for: parity with the CPU, timings, the recipe trained, measured weights.
#
#   runs/gpu.sh [options] MANIFEST...
#
#   --root DIR        folder of the manifests' audio paths (data)
#   --minutes M       of training, both stages together (18); everything else takes about 6 minutes beside it
#   --model MODEL     where training starts: a config.json, or an exported model (the embedded checkpoint)
#   --labels FILE     phone labels of these manifests, from python -m train align (made here, on the CPU, when missing)
#   --config FILE     further settings of both stages, such as train/configs/recipe/sources.yaml; may be given several times
#   --device NAME     cuda, or cpu for a rehearsal
#   --tiny            a rehearsal in a minute or two: tiny benchmarks and two steps of each stage
#   --out DIR         folder of all that it writes (runs/gpu)
#
# It needs pip install '.[train,align]', and '.[eval]' for the measurements. Stopped at any time, the same command goes on
# where it was. It writes report.txt, the finished model in model/ and, in parts/, its weights in files below 16 MB, which
# `cat parts/model.safetensors.* > model.safetensors` joins again.
set -euo pipefail

root=data
minutes=18
model=checkpoints/default
labels=
device=cuda
tiny=
out=runs/gpu
config=()
manifests=()
while [ $# -gt 0 ]; do
    case $1 in
        --root) root=$2; shift ;;
        --minutes) minutes=$2; shift ;;
        --model) model=$2; shift ;;
        --labels) labels=$2; shift ;;
        --config) config+=(--config "$2"); shift ;;
        --device) device=$2; shift ;;
        --tiny) tiny=yes ;;
        --out) out=$2; shift ;;
        -*) echo "runs/gpu.sh: unknown option $1; the head of this file lists them" >&2; exit 2 ;;
        *) manifests+=("$1") ;;
    esac
    shift
done
if [ ${#manifests[@]} -eq 0 ]; then
    echo "runs/gpu.sh: name a manifest or several; train/README.md says what one holds" >&2
    exit 2
fi
export PYTHON=${PYTHON:-python} PYTHONUNBUFFERED=1
mkdir -p "$out"

# section TITLE COMMAND...: the command's output goes into the report, under a title, once
section() {
    local title=$1
    shift
    if ! grep -qsxF "## $title" "$out/report.txt"; then
        echo "== $title" >&2
        "$@" > "$out/section.txt"
        { echo "## $title"; echo "$*"; cat "$out/section.txt"; echo; } >> "$out/report.txt"
        rm "$out/section.txt"
    fi
}

large=(--device "$device")
train=(--device "$device" --precision bf16-mixed --compile true --batch_seconds 320)
recipe=(--config train/configs/gpu.yaml)
modes=(eager compile graphs)
clips=20
metrics=(signal phones)
if [ "$device" = cpu ]; then
    train=(--device cpu)
    recipe=()
    modes=(eager)
fi
if [ -n "$tiny" ]; then
    large+=(--shape train/configs/models/tiny.json --batch 2 --seconds 1 --product 64 --repeats 1 --dtype float32)
    train+=(--model train/configs/models/tiny.json --batch_seconds 3 --crop_seconds 1.44 --steps 1 --product 64)
    clips=1
    metrics=(signal)
fi

section "Parity with the CPU" "$PYTHON" -m bench.parity "$root" --device "$device" --clips "$clips"
for mode in "${modes[@]}"; do
    section "The 1.2 B configuration, $mode" "$PYTHON" -m bench.gpu --mode "$mode" "${large[@]}"
done
section "The 1.2 B configuration, mixed lengths" "$PYTHON" -m bench.gpu --mixed true "${large[@]}"
section "The embedded configuration" "$PYTHON" -m bench.gpu "${large[@]}" --shape checkpoints/default/config.json
for stage in 1_joint 2_adversarial; do
    section "A step of $stage" "$PYTHON" -m bench.train --recipe "train/configs/recipe/$stage.yaml" "${train[@]}"
done

# seconds of a step of both stages, from the two tables above, give the share of the recipe's steps that fits the minutes
factor=0
if [ -z "$tiny" ]; then
    factor=$(awk -v minutes="$minutes" '
        $1 == "max_steps:" { steps[FILENAME ~ /adversarial|refine/ ? 2 : 1] += $2 }
        /^\| the step \|/ { seconds += $5 * steps[++timed] }
        END { print 60 * minutes / seconds }' \
        train/configs/recipe/{1_joint,sound,meaning,2_adversarial,refine,refine}.yaml "$out/report.txt")
fi
run=$out/recipe
mkdir -p "$run"
if [ -n "$labels" ]; then
    cp -n "$labels" "$run/labels.jsonl"
fi
runs/embedded.sh --root "$root" --synthetic 0 --model "$model" --steps "$factor" "${recipe[@]}" "${config[@]}" \
    --run "$run" --out "$out/model" "${manifests[@]}"
if [ ! -e "$out/parts/config.json" ]; then
    mkdir -p "$out/parts"
    split --bytes 15M "$out/model/model.safetensors" "$out/parts/model.safetensors."
    cp "$out"/model/*.json "$out/parts"
fi
section "The model on dev" "$PYTHON" -m eval --codec "$out/model" --split dev --metric "${metrics[@]}" \
    --labels "$run/labels.jsonl" --manifest "${manifests[0]}" --root "$root" --out "$out/eval"
