#!/usr/bin/env bash
# From manifests of speech to the checkpoint that the package carries: phone labels, both halves of the joint stage,
# weighted search, adversarial stage, and its mean with what a short training without discriminators makes of it; then
# the joint stage once more for meaning, the mean of before and after, and search and decoder again.
#
#   runs/embedded.sh [options] MANIFEST...
#
#   --root DIR        folder of the manifests' audio paths (data)
#   --synthetic H     hours of synthetic speech that are added to the manifests (15; 0 for none)
#   --model MODEL     a config.json to train from scratch, or an exported model to go on from (the embedded shape)
#   --steps FACTOR    scales the steps of all stages (1)
#   --config FILE     settings for all stages, of this machine (train/configs/gpu.yaml) or of this corpus
#                     (train/configs/recipe/sources.yaml); may be given several times
#   --run DIR         folder of the run: labels, checkpoints, logs, exported stages (runs/embedded)
#   --out DIR         folder of the finished model (checkpoints/default)
#
# Where nothing can be aligned, since the speech is not English or has no texts, phones are left out (and `--synthetic 0`
# leaves out the synthetic speech, which speaks the English texts).
# It needs pip install '.[train,align,synthesis]'. Stopped at any time, the same command goes on where it was.
# Afterwards measure the model: python -m eval --codec OUT --metric signal sim asr phones distilmos (eval/README.md).
set -euo pipefail

root=data
synthetic=15
model=train/configs/models/default.json
factor=1
config=()
run=runs/embedded
out=checkpoints/default
manifests=()
while [ $# -gt 0 ]; do
    case $1 in
        --root) root=$2; shift ;;
        --synthetic) synthetic=$2; shift ;;
        --model) model=$2; shift ;;
        --steps) factor=$2; shift ;;
        --config) config+=(--config "$2"); shift ;;
        --run) run=$2; shift ;;
        --out) out=$2; shift ;;
        -*) echo "runs/embedded.sh: unknown option $1; the head of this file lists them" >&2; exit 2 ;;
        *) manifests+=("$1") ;;
    esac
    shift
done
if [ ${#manifests[@]} -eq 0 ]; then
    echo "runs/embedded.sh: name a manifest or several; train/README.md says what one holds" >&2
    exit 2
fi
python=${PYTHON:-python}

recipe=train/configs/recipe

# steps FILE...: the steps of the last of these configs that tells any, times the factor, at least 2
steps() {
    awk -v factor="$factor" '$1 == "max_steps:" { n = int($2 * factor + 0.5) } END { print n < 2 ? 2 : n }' "$@"
}

if [ "$synthetic" != 0 ]; then
    "$python" -m scripts.synthesize "${manifests[@]}" --out "$root/synthetic" --hours "$synthetic"
    manifests+=("$root/synthetic/manifest.jsonl")
fi
mkdir -p "$run"
"$python" -m train align "${manifests[@]/#/--manifest=}" --root "$root" --out "$run/labels.jsonl"
list=$(printf ',%s' "${manifests[@]}")

# fit STAGE MODEL NAMES [setting...]: train a stage by the recipe's configs of these names, and export what it gave
fit() {
    local stage=$1 from=$2 files=() configs=() readers=()
    for name in $3; do
        files+=("$recipe/$name.yaml")
        configs+=(--config "$recipe/$name.yaml")
    done
    shift 3
    # the later parts of the joint stage go on with what read the first codebook
    case $stage in joint | sound) readers=(--readers) ;; esac
    if [ ! -e "$run/$stage-model/model.safetensors" ]; then
        # `fit` refuses a finished run, which may have been stopped before its export
        if [ ! -e "$run/$stage/finished" ]; then
            "$python" -m train fit "${configs[@]}" "${config[@]}" --trainer.max_steps "$(steps "${files[@]}")" \
                --trainer.default_root_dir "$run/$stage" --model.init_args.model "$from" \
                --data.manifest "[${list:1}]" --data.root "$root" --data.cache_dir "$root/cache" "$@"
            touch "$run/$stage/finished"
        fi
        "$python" -m train export --checkpoint "$run/$stage/checkpoints/last.ckpt" --out "$run/$stage-model" "${readers[@]}"
    fi
}
# mean NAME FIRST SECOND [option...]: the mean of two of the run's models
mean() {
    local name=$1 first=$2 second=$3
    shift 3
    if [ ! -e "$run/$name-model/model.safetensors" ]; then
        "$python" -m train average "$run/$first-model" "$run/$second-model" --out "$run/$name-model" "$@"
    fi
}
# weigh NAME FROM: one of the run's models with a weighted search
weigh() {
    if [ ! -e "$run/$1-model/model.safetensors" ]; then
        "$python" -m train weigh "$run/$2-model" --out "$run/$1-model" "${manifests[@]/#/--manifest=}" --root "$root"
    fi
}
# speech of which nothing could be aligned, in another language or without texts, goes without the loss for phones
phones=(--data.alignments "$run/labels.jsonl")
first="1_joint phones"
second="1_joint phones sound sound_phones"
third="1_joint phones sound meaning"
if ! grep -qm 1 '"phones"' "$run/labels.jsonl"; then
    phones=()
    first=1_joint
    second="1_joint sound"
    third="1_joint sound meaning"
fi
fit joint "$model" "$first" "${phones[@]}"
fit sound "$run/joint-model" "$second" "${phones[@]}" \
    --model.init_args.reader_weights "$run/joint-model/readers.safetensors"
weigh weighted sound
fit adversarial "$run/weighted-model" 2_adversarial
fit refine "$run/adversarial-model" "2_adversarial refine"
mean sounding adversarial refine
# the first codebook's codes are those of `sound` still, and so are its readers
fit meaning "$run/sounding-model" "$third" "${phones[@]}" \
    --model.init_args.reader_weights "$run/sound-model/readers.safetensors"
mean meaning-mean sounding meaning --share 0.7 --new-codes
weigh meaning-weighted meaning-mean
fit meaning-refine "$run/meaning-weighted-model" "2_adversarial refine"
mkdir -p "$out"
cp "$run/meaning-refine-model"/* "$out"
echo "$out: made by the recipe from ${#manifests[@]} manifest(s)"
