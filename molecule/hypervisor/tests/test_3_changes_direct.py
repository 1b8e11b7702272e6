"""The same changes on a host without systemd, as far as they go another way there, and in the same order."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import test_3_changes as on_systemd

testinfra_hosts = ["ansible://bare"]
test_starting_one_touches_no_other = on_systemd.test_starting_one_touches_no_other
test_a_changed_environment_restarts_only_that_runtime = on_systemd.test_a_changed_environment_restarts_only_that_runtime
test_one_runtime_can_go = on_systemd.test_one_runtime_can_go
test_the_way_back_leaves_nothing = on_systemd.test_the_way_back_leaves_nothing
