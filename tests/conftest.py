# SPDX-License-Identifier: Apache-2.0
"""What can only run in a certain place is not collected elsewhere, rather than skipped: kernel tests run in the machine
of `scripts/vm test`, some of them only with systemd, and those on the public recordings where AGENTCG_TRACES names a
copy, or the whole."""

import os

collect_ignore = [] if os.environ.get("AGENTCG_VM") else ["kernel"]
if not os.path.isdir("/run/systemd/system"):
    collect_ignore += ["kernel/test_systemd.py", "kernel/test_prekill.py"]
traces = os.environ.get("AGENTCG_TRACES")
if not traces:
    collect_ignore.append("unit/trace/test_data_set.py")
if not traces or not os.path.isdir(os.path.join(traces, "batch_swebench_18tasks")):
    collect_ignore.append("unit/trace/test_data_set_whole.py")
if os.path.exists("/sys/kernel/sched_ext"):
    collect_ignore.append("kernel/bpf/test_sched_missing.py")
else:
    collect_ignore.append("kernel/bpf/test_sched.py")
