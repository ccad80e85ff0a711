"""What real phones and benchmark programs print. Where a text is not from a real run, its lines follow the source."""

from __future__ import annotations

from collections.abc import Sequence

# github.com/tensorflow/tensorflow issue 42507: benchmark_model of 2020, on a phone over adb.
LITERT_2020 = """\
STARTING!
Duplicate flags: num_threads
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [/data/local/tmp/espcn_harmonic_2x_slim_w_cl.tflite]
Enable op profiling: [1]
#threads used for CPU inference: [4]
Loaded model /data/local/tmp/espcn_harmonic_2x_slim_w_cl.tflite
The input model file size (MB): 0.004448
Initialized session in 0.855ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450

Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, Inference (avg): 33209.4
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory \
footprint of the model at runtime. Take the information at your discretion.
Peak memory footprint (MB): init=0 overall=12.8672
"""

# github.com/mlcommons/mobile_app_open issue 1134: benchmark_model of the compiled model API (litert/tools).
LITERT_COMPILED = """\
========== BENCHMARK RESULTS ==========
INFO: [benchmark_litert_model.h:92] Signature name:       prefill_1024
INFO: [benchmark_litert_model.h:94] Model initialization: 23744.73 ms
INFO: [benchmark_litert_model.h:96] Warmup (first):       7441.04 ms
INFO: [benchmark_litert_model.h:98] Warmup (avg):         7441.04 ms (1 runs)
INFO: [benchmark_litert_model.h:100] Inference (avg):      7430.20 ms (10 runs)
INFO: [benchmark_litert_model.h:104] Inference (min):      7416.40 ms
INFO: [benchmark_litert_model.h:106] Inference (max):      7448.86 ms
INFO: [benchmark_litert_model.h:108] Inference (std):      9.92
INFO: [benchmark_litert_model.h:115] Throughput:           27.46 MB/s
INFO: [benchmark_litert_model.h:124] 
Memory Usage:
INFO: [benchmark_litert_model.h:126] Init footprint:       6391.74 MB
INFO: [benchmark_litert_model.h:128] Overall footprint:    6391.74 MB
INFO: [benchmark_litert_model.h:135] Peak memory usage not available. (peak_mem_mb <= 0)
"""

# github.com/microsoft/onnxruntime issue 4647: onnxruntime_perf_test of onnxruntime 1.3.1, on a phone.
ONNXRUNTIME_2020 = """\
Session creation time cost: 0.127918 s
Total inference time cost: 1.44871 s
Total inference requests: 10
Average inference time cost: 144.871 ms
Total inference run time: 1.44916 s
Avg CPU usage: 68 %
Peak working set size: 158171136 bytes
"""

# Arm Learning Paths, "Profile ONNX model performance with SME2": onnxruntime_perf_test of 2025 over adb, on one core of
# a phone with a Dimensity 9500.
ONNXRUNTIME_2025 = """\
Setting intra_op_num_threads to 1
Disabling intra-op thread spinning between runs
Session creation time cost: 0.227282 s
First inference time cost: 343 ms
Total inference time cost: 1.69691 s
Total inference requests: 5
Average inference time cost total: 339.381120 ms
Total inference run time: 1.69697 s
Number of inferences per second: 2.94642
Avg CPU usage: 11 %
Peak working set size: 241426432 bytes
Avg CPU usage:11
Peak working set size:241426432
Runs:5
Min Latency: 0.333323 s
Max Latency: 0.34682 s
P50 Latency: 0.336476 s
P90 Latency: 0.34682 s
P95 Latency: 0.34682 s
P99 Latency: 0.34682 s
P999 Latency: 0.34682 s
"""

# github.com/pytorch/executorch issue 1231 and examples/portable/executor_runner.cpp of 2025: the sum alone.
EXECUTORCH_2025 = """\
I 00:00:00.382397 executorch:executor_runner.cpp:133] Model file ./resnet18.pte is loaded.
I 00:00:00.382473 executorch:executor_runner.cpp:142] Using method forward
I 00:00:00.382480 executorch:executor_runner.cpp:190] Setting up planned buffer 0, size 64346944.
I 00:00:00.437272 executorch:executor_runner.cpp:213] Method loaded.
I 00:00:00.437405 executorch:executor_runner.cpp:219] Inputs prepared.
I 00:00:01.767346 executorch:executor_runner.cpp:228] Model executed successfully 10 time(s) in 1096.626000 ms.
I 00:00:01.767409 executorch:executor_runner.cpp:232] 1 outputs: 
"""

# android.stackexchange.com question 246774: dumpsys thermalservice of a phone with Android 12.
THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
	callbacks: 1
	killed: false
	broadcasts count: -1
ThermalStatusListeners:
	callbacks: 4
	killed: false
	broadcasts count: -1
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}
	Temperature{mValue=25.6, mType=0, mName=AP, mStatus=0}
	Temperature{mValue=25.7, mType=5, mName=PA, mStatus=0}
	Temperature{mValue=23.8, mType=2, mName=BAT, mStatus=0}
	Temperature{mValue=44.7, mType=3, mName=LRB, mStatus=0}
HAL Ready: true
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
	Temperature{mValue=25.6, mType=0, mName=AP, mStatus=0}
	Temperature{mValue=23.8, mType=2, mName=BAT, mStatus=0}
	Temperature{mValue=24.7, mType=3, mName=LRB, mStatus=0}
	Temperature{mValue=24.6, mType=3, mName=LRF, mStatus=0}
	Temperature{mValue=25.7, mType=5, mName=PA, mStatus=0}
	Temperature{mValue=0.0, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
Temperature static thresholds from HAL:
"""

# gh0st.tistory.com/6: dumpsys battery of a phone at a USB port.
BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 0
  status: 2
  health: 2
  present: true
  level: 84
  scale: 100
  voltage: 4063
  temperature: 326
  technology: Li-ion
"""

# What adb prints, from the issues of those who met it (github.com/MasterDevX/Termux-ADB issue 19 and others).
NO_PHONE = "List of devices attached\n\n"
ONE_PHONE = "List of devices attached\nR5CT20ABCDE\tdevice\n\n"
UNAUTHORIZED = "List of devices attached\nR5CT20ABCDE\tunauthorized\n\n"
OFFLINE = "List of devices attached\nR5CT20ABCDE\toffline\n\n"
TWO_PHONES = "List of devices attached\nR5CT20ABCDE\tdevice\nemulator-5554\tdevice\n\n"


def thermal(status: int, skin_c: float) -> str:
    """The thermal service's text at another status and surface temperature."""
    text = THERMAL.replace("Thermal Status: 0", f"Thermal Status: {status}")
    head, _, now = text.partition("Current temperatures from HAL")
    return f"{head}Current temperatures from HAL{now.replace('mValue=24.7', f'mValue={skin_c}')}"


def litert(median_us: int, peak_mb: float | None = None, n: int = 50) -> str:
    """What benchmark_model prints since 2024 (tflite/tools/benchmark/benchmark_model.cc, tsl stats_calculator.h)."""
    limits = "seconds but terminate if exceeding 150 seconds."
    lines = [
        "INFO: STARTING!",
        f"INFO: Min num runs: [{n}]",
        "INFO: Initialized session in 9.933ms.",
        f"INFO: Running benchmark for at least 5 iterations and at least 0.5 {limits}",
        f"INFO: count=7 first={3 * median_us} curr={median_us} min={median_us - 9} max={3 * median_us} "
        f"avg={1.4 * median_us:.6g} std=20944 p5={median_us - 9} median={median_us} p95={3 * median_us}",
        "",
        f"INFO: Running benchmark for at least {n} iterations and at least 1 {limits}",
        f"INFO: count={n} first={median_us} curr={median_us + 4} min={median_us - 10} max={median_us + 50} "
        f"avg={median_us + 2.5:.6g} std=39 p5={median_us - 8} median={median_us} p95={median_us + 30}",
        "",
        f"INFO: Inference timings in us: Init: 9933, First inference: {3 * median_us}, "
        f"Warmup (avg): {1.4 * median_us:.6g}, Inference (avg): {median_us + 2.5:.6g}",
        "INFO: Memory footprint delta from the start of the tool (MB): init=8.97656 overall=18.7227",
    ]
    if peak_mb is not None:
        lines.append(f"INFO: Overall peak memory footprint (MB) via periodic monitoring: {peak_mb}")
    return "\n".join(lines) + "\n"


def executorch(times_ms: Sequence[float]) -> str:
    """What executor_runner writes to the log since April 2026 (examples/portable/executor_runner.cpp)."""
    total = len(times_ms)
    lines = ["Resetting threadpool with num threads = 1", "Model file net.pte is loaded.", "Using method forward",
             "Setting up CPU planned buffer 0, size 18432.", "Model loaded in 12.345678 ms."]  # fmt: skip
    lines += [f"Iteration {number} of {total}: {time:f} ms" for number, time in enumerate(times_ms, 1)]
    lines += [f"Model executed successfully {total} time(s) in {sum(times_ms):f} ms.", "1 outputs: "]
    return "\n".join(lines) + "\n"


def onnxruntime(median_ms: float, n: int = 50) -> str:
    """What onnxruntime_perf_test -s prints since 2025 (onnxruntime/test/perftest/performance_runner.cc)."""
    median_s = median_ms * 1e-3
    return f"""\
Session creation time cost: 0.0123 s
First inference time cost: 7 ms
Total inference time cost: {n * median_s:.6g} s
Total inference requests: {n}
Average inference time cost total: {median_ms * 1.01:.6f} ms
Total inference run time: {n * median_s * 1.001:.6g} s
Number of inferences per second: {1 / median_s:.6g} 
Avg CPU usage: 12 %
Peak working set size: 158171136 bytes
Avg CPU usage:12
Peak working set size:158171136
Runs:{n}
Min Latency: {median_s * 0.9:.6g} s
Max Latency: {median_s * 2:.6g} s
P50 Latency: {median_s:.6g} s
P90 Latency: {median_s * 1.2:.6g} s
P95 Latency: {median_s * 1.3:.6g} s
P99 Latency: {median_s * 1.5:.6g} s
P999 Latency: {median_s * 2:.6g} s
"""
