#!/usr/bin/env bash
# Everything that a GPU is needed for, in one command:  bash benchmarks/gpu/first_contact.sh A|B
#
# A: kernel tests, the self-test, profiles of a frame, the goals, a short training. B: the graph's
# tests, agreement, the race of the deformable convolution's forms, training for the time that is
# left. Each step has a limit of its own and none ends the script. What a step leaves is in $OUT as
# soon as it ends, and every half minute what it has written so far: log.txt, results.jsonl (name,
# exit status, seconds), results.tgz; B adds weights.0, weights.1, ...
#
# Settings by environment, with their defaults: see the next lines. README.md has the commands.
set -u
part=${1:?A or B}
OUT=${OUT:-/tmp/first_contact}
WORK=${WORK:-/tmp/first_contact_work}            # what steps write; packed into results.tgz
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda} VARIANT=${VARIANT:-cityscapes-r50} SIZE=${SIZE:-1024x2048} PRECISION=${PRECISION:-fp16}
BUDGET=${BUDGET:-570}                            # seconds for all of it
LIMITS=${LIMITS:-1}                              # times the limits of steps: more on a slow machine
WHEELS=${WHEELS:-.whl}                            # what this machine lacks
SCENES=${SCENES:-/tmp/scenes} SCENES_SIZE=${SCENES_SIZE:-512x1024} FRAMES=${FRAMES:-4000}
FILL_WORKERS=${FILL_WORKERS:-7}                  # of the cache of scenes, beside A's steps
# The newest kernels first. Not listed are files without a test that needs a GPU.
KERNEL_TESTS=${KERNEL_TESTS-$(echo test/ops/test_{heuristic_merge,resize_bytes,camera_input}.py
  ls test/ops/test_*.py | grep -v -e heuristic_merge -e resize_bytes -e camera_input -e compile -e dispatch -e deform_forms -e deform_conv.py -e chain -e test_roi_align)}
MARK=${MARK:-gpu} JOBS=${JOBS:-8} TESTS_S=${TESTS_S:-80} KERNELS_S=${KERNELS_S:-150} # of a file, of all
FPN_SIZE=${FPN_SIZE:-800x1344}
ITERATIONS=${ITERATIONS:-30} REPLAYS=${REPLAYS:-50} BENCH=${BENCH:-}
TRAIN_S=${TRAIN_S:-240} PROCESSES=${PROCESSES:-1} TRAIN=${TRAIN:-}
export PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/triton_cache}
start=$(date +%s)
mkdir -p "$OUT" "$WORK"
log=$OUT/log.txt results=$OUT/results.jsonl

left() { echo $((BUDGET - $(date +%s) + start)); }
say() { echo "[$(($(date +%s) - start)) s] $*" | tee -a "$log"; }
pack() { # what the steps left, small files only; a file that is being written is packed as it is
  tar czf "$WORK.$BASHPID.tgz" -C "$WORK" --warning=no-file-changed --exclude='*.safetensors' --exclude='*.pt' --exclude=tensorboard .
  mv "$WORK.$BASHPID.tgz" "$OUT/results.tgz"
}
keep_packing() { # in case that this command is killed in a step
  trap 'kill $!; exit' TERM
  while sleep 30 & wait $!; do pack; done
}
keep_packing >/dev/null 2>&1 &
packer=$!
trap 'kill $packer; wait $packer' EXIT
note() { # name, exit status, seconds
  echo "{\"step\": \"$1\", \"status\": $2, \"seconds\": $3}" >>"$results"
  say "$1: exit status $2 after $3 s: $(tail -n 1 "$WORK/$1.log" | cut -c1-200)"
  pack
}
step() { # name, limit in seconds, command...: at most what is left of the budget
  local name=$1 limit=$(($2 * LIMITS)) begin status
  shift 2
  [ "$(left)" -lt "$limit" ] && limit=$(left)
  if [ "$limit" -lt 5 ]; then say "$name: left out, no time"; echo "{\"step\": \"$name\", \"status\": null, \"seconds\": 0}" >>"$results"; return 1; fi
  begin=$(date +%s)
  timeout -s INT -k 10 "$limit" "$@" >"$WORK/$name.log" 2>&1
  status=$?
  note "$name" $status $(($(date +%s) - begin))
  return $status
}
upsnet() { echo "$PYTHON" -m upsnet_ros.cli "$@"; }
train() { # name, limit, settings...
  local name=$1 limit=$2 launcher="-m upsnet_ros.cli"
  shift 2
  [ "$PROCESSES" -gt 1 ] && launcher="-m torch.distributed.run --standalone --nproc-per-node $PROCESSES -m upsnet_ros.cli"
  step "$name" "$limit" "$PYTHON" $launcher train --config config/train/scenes-r18-gpu.yaml --out "$WORK/$name" --device "$DEVICE" \
    --set train.cache="$SCENES" --set train.length="$FRAMES" --set "train.size=[${SCENES_SIZE/x/, }]" "$@" $TRAIN
}
goals() { # name, limit, part of `upsnet bench goals`
  step "$1" "$2" $(upsnet bench) goals --only "$3" --variant "$VARIANT" --size "$SIZE" --device "$DEVICE" --precision "$PRECISION" \
    --iterations "$ITERATIONS" --goals benchmarks/goals.json --json "$WORK/$1.json" --markdown "$WORK/$1.md" $BENCH
}
goals_in_time() { # limit, part: where it takes too long, a shorter measurement
  goals "goals_$2" "$1" "$2"
  [ $? -ge 124 ] && UPSNET_CUDNN_PLANS=0 ITERATIONS=5 goals "goals_$2_short" $(($1 * 2 / 3)) "$2"
}
profile() { # name, limit, plans of cuDNN, more options
  local name=$1 limit=$2 plans=$3
  shift 3
  UPSNET_CUDNN_PLANS=$plans step "$name" "$limit" "$PYTHON" benchmarks/gpu/profile_frame.py --out "$WORK/$name" --device "$DEVICE" --variant "$VARIANT" \
    --size "$SIZE" --precision "$PRECISION" --replays "$REPLAYS" "$@"
}
turn_off() { # names of kernels on standard input, a line each
  local names
  names=$(sed -n 's/./-&/p' | paste -sd,)
  [ -n "$names" ] && export UPSNET_KERNELS=${UPSNET_KERNELS:+$UPSNET_KERNELS,}$names
  say "kernels that are off from here on: ${UPSNET_KERNELS:-none}"
}
tested() { # condition on the exit status: names of kernels whose test files ended so
  awk "\$2 $1"' { sub("^test_", "", $1); sub("_(triton|input)$", "", $1); print $1 }' "$WORK/kernel_tests.log" | grep -v -x -e graph_on_gpu -e network_on_gpu -e cases
}

# What is here, and what was brought along.
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if ls "$WHEELS"/*.whl >/dev/null 2>&1; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$WORK.site" "$WHEELS"/*.whl >>"$log" 2>&1
  export PYTHONPATH=$PYTHONPATH:$WORK.site
fi
step probe 90 bash -c "nvidia-smi; nproc; free -g; df -h /dev/shm /tmp; which gcc compute-sanitizer
  '$PYTHON' -c \"
import importlib, platform
print(platform.python_version())
for name in 'torch triton torchvision numpy cv2 safetensors rich typer yaml pydantic tensorboard pytest'.split():
    try:
        print(name, getattr(importlib.import_module(name), '__version__', ''))
    except ImportError as error:
        print('MISSING', name, error)
import torch
print('cuDNN', torch.backends.cudnn.version(), torch.cuda.is_available() and torch.cuda.get_device_properties(0))
\""

if [ "$part" = A ]; then
  # On cores that the steps leave idle. In a session of its own, so that it continues when this command ends.
  setsid nice -n 19 $(upsnet scenes) --cache "$SCENES" --split train --frames "$FRAMES" --size "$SCENES_SIZE" --workers "$FILL_WORKERS" >"$WORK/fill.log" 2>&1 &

  # A process for each file, so that a fault of the device takes no other along.
  begin=$(date +%s)
  [ "$KERNELS_S" -gt "$(left)" ] && KERNELS_S=$(left)
  END=$((begin + KERNELS_S * LIMITS))
  export PYTHON MARK WORK TESTS_S END
  echo $KERNEL_TESTS | xargs -r -n 1 -P "$JOBS" bash -c 'name=$(basename "$0" .py) limit=$((END - $(date +%s)))
    [ "$limit" -gt "$TESTS_S" ] && limit=$TESTS_S
    [ "$limit" -lt 5 ] && echo "$name 5 left out, no time" && exit
    timeout -s INT -k 5 "$limit" "$PYTHON" -m pytest -q --maxfail=6 -p no:cacheprovider -m "$MARK" "$0" >"$WORK/kernel_$name.log" 2>&1
    status=$?
    [ "$status" = 1 ] && grep -q "CUDA error" "$WORK/kernel_$name.log" && status=134
    echo "$name $status $(tail -n 1 "$WORK/kernel_$name.log" | cut -c1-140)"' >"$WORK/kernel_tests.log"
  cat "$WORK/kernel_tests.log" >>"$log"
  # From 124 on it hung, crashed or broke the device. 1: some test failed, which may be the test's fault;
  # then the self-test decides. 2 to 5: no test ran.
  turn_off < <(tested '>= 124')
  note kernel_tests "$(awk '$2 != 0 && $2 != 5' "$WORK/kernel_tests.log" | wc -l)" $(($(date +%s) - begin))

  # Each kernel at the sizes of a frame, in child processes: what users' GPUs are tested by.
  : >"$WORK/self_test.log"
  step self_test 100 bash -c '"$@" >"$WORK/self_test.json"' - $(upsnet doctor) --json --device cuda:0 \
    --variant "$VARIANT" --precision fp16 --size "height=${SIZE%x*},width=${SIZE#*x}"
  # By its log, which has each result at once. A comma would end the name.
  passed=$(sed -n 's/^self-test: \([a-z_]*\).* passed$/\1/p' "$WORK/self_test.log")
  turn_off < <(
    tested '== 1' | grep -v -x -F -e "$passed"
    sed -n 's/^self-test: \([^:,]*\)[^:]* failed: .*/\1/p' "$WORK/self_test.log" | grep -v -x -E 'device|operators|graph|kernels|frame'
  )

  profile profile_quick 90 0 # cuDNN's timing of plans may take minutes
  status=$?
  if [ -f "$WORK/profile_quick.log" ] && { [ "$status" != 0 ] || grep -q '"changed_by_nan": true' "$WORK/profile_quick.log"; }; then
    # The suspect is what cuDNN does in one launch.
    before=${UPSNET_KERNELS:-}
    turn_off <<<conv_relu
    profile profile_without_conv_relu 90 0 || export UPSNET_KERNELS=$before
  fi
  profile profile_fpn 50 0 --variant coco-fpn-r50 --size "$FPN_SIZE" # the graph of the heuristic merge
  step kernel_times 60 "$PYTHON" benchmarks/kernel_times.py --dtype float16 --no-reference --rounds 20
  profile profile_tuned 120 4 || export UPSNET_CUDNN_PLANS=1
  for part_of_goals in race head cameras; do goals_in_time 90 $part_of_goals; done
  train train_smoke 90 --set schedule.seconds=30 --set schedule.warmup=5 --set checkpoint_every=1000 --set log_every=5
  tail -n 2 "$WORK/fill.log" >>"$log"
else
  step graph_tests 80 "$PYTHON" -m pytest -q -p no:cacheprovider -m "$MARK" test/inference/test_cuda_graph.py test/inference/test_host_memory.py \
    test/inference/test_stage_timer.py test/benchmark/test_clock.py test/benchmark/test_stages.py
  UPSNET_CUDNN_PLANS=1 step frame_tests 90 "$PYTHON" -m pytest -q -p no:cacheprovider -m "$MARK" test/inference/test_frames_on_gpu.py
  step deform_forms 60 "$PYTHON" benchmarks/deform_forms.py --out "$WORK/deform_forms.jsonl"
  goals_in_time 60 agreement
  plain="--set precision=fp32 --set channels_last=false --set float32_matmul_precision=highest --set workers=4"
  for name in train train_plain; do
    # Leaves time to split the weights; the run itself ends by its schedule.
    [ "$TRAIN_S" -gt $(($(left) - 45)) ] && TRAIN_S=$(($(left) - 45))
    [ "$TRAIN_S" -gt 0 ] || break
    train $name $((TRAIN_S + 40)) --set schedule.seconds="$TRAIN_S" $([ $name = train ] || echo "$plain")
    weights=$WORK/$name/weights_last.safetensors
    [ -f "$weights" ] && split -b 15M -d -a 1 "$weights" "$OUT/weights." && break
  done
fi
pack
say "end of part $part"
ls -l "$OUT"
cat "$results"
grep -s -h -v "not asked for" "$WORK"/goals_*.md
exit 0
