# SPDX-License-Identifier: Apache-2.0
import pytest

from agentcg.errors import InvalidInput
from agentcg.policy.load import load, presets
from agentcg.policy.schema import KvRules, Share, TransparentRules


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "my.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_the_presets_load_and_cap_swap():
    assert presets() == ["default", "shared-host", "strict"]
    for name in presets():
        policy = load(name)
        assert policy.name == name
        assert policy.description
        assert policy.session.swap == 0
        assert {"test", "build", "install", "script", "vcs", "search"} <= policy.classes.keys()
        assert all(each.swap_max == 0 and each.pids_max for each in policy.classes.values())
        assert policy.rules == load("default").rules
        assert policy.transparent == TransparentRules()


def test_a_whole_policy(write):
    policy = load(
        write(
            """
            version = 1
            [session]
            memory = "25%"
            swap = "1G"
            [defaults]
            memory_max = "1G"
            pids_max = 7
            [class.test]
            memory_max = "unlimited"
            duration_max = "30m"
            headroom = 0.8
            network = "10M"
            [class.offline]
            network = "none"
            [[rule]]
            tool = "Bash"
            command = ["/usr/bin/python3 -m pytest"]
            class = "test"
            [history]
            margin = 2
            [kv]
            weights = false
            [transparent]
            shells = []
            programs = "pytest"
            """
        )
    )
    assert policy.name == "my"
    assert policy.session.memory == Share(0.25)
    assert policy.session.swap == 1 << 30
    test = policy.classes["test"]
    assert (test.memory_max, test.pids_max, test.duration_max, test.headroom) == (None, 7, 1800, 0.8)
    assert policy.classes["default"].memory_max == 1 << 30
    assert [policy.classes[name].network for name in ("default", "test", "offline")] == [None, 10 << 20, 0]
    assert policy.rules[0].tools == ("Bash",)
    assert policy.rules[0].commands == {("python", "-m", "pytest")}
    assert (policy.history.min_calls, policy.history.margin) == (5, 2.0)
    assert policy.kv == KvRules(signals=True, weights=False, order=True)
    assert policy.transparent == TransparentRules(shells=(), programs=("pytest",))


def test_a_policy_may_extend_a_preset(write):
    policy = load(
        write(
            'version = 1\nextends = "default"\n[class.test]\npids_max = 9\n[[rule]]\ncommand = "mine"\nclass = "test"'
        )
    )
    base = load("default")
    assert policy.classes["test"].pids_max == 9
    assert policy.classes["test"].memory_expected == base.classes["test"].memory_expected
    assert policy.classes["build"] == base.classes["build"]
    assert policy.rules[0].commands == {("mine",)}
    assert policy.rules[1:] == base.rules


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "version", "begin the file with: version = 1"),
        ("version = 2\nnew = 1", "version", "use an agentcg that reads version 2"),
        ("version = true", "version", "without quotes"),
        ("versoin = 1\nversion = 1", "versoin", "did you mean 'version'"),
        ("version = 1\n[class.test]\npid_max = 1", "class.test.pid_max", "did you mean 'pids_max'"),
        ("version = 1\n[class.test]\npids_max = '5'", "class.test.pids_max", "without quotes"),
        ("version = 1\n[class.test]\npids_max = 0", "class.test.pids_max", "from 1 to"),
        ("version = 1\n[class.test]\nmemory_max = 512", "class.test.memory_max", "in quotes"),
        ("version = 1\n[class.test]\nmemory_max = '1.5g'", "class.test.memory_max", "512M"),
        ("version = 1\n[class.test]\nmemory_max = '1M'", "class.test.memory_max", "at least 4.0 MiB"),
        ("version = 1\n[class.test]\nswap_max = 'unlimited'", "class.test.swap_max", "swap is always limited"),
        ("version = 1\n[class.test]\ncpu = 'fast'", "class.test.cpu", "'interactive', 'normal', 'batch'"),
        ("version = 1\n[class.test]\nduration_max = 5", "class.test.duration_max", "30m"),
        ("version = 1\n[class.test]\nheadroom = nan", "class.test.headroom", "from 0.5 to 0.99"),
        ("version = 1\n[class.test]\nnetwork = 0", "class.test.network", '"none", or bytes per second in quotes'),
        ("version = 1\n[class.test]\nnetwork = 'off'", "class.test.network", "write none, or bytes per second"),
        ("version = 1\n[class.'a/b']\n", "class.'a/b'", "letters"),
        ("version = 1\n[class.default]\n", "class.default", "[defaults]"),
        ("version = 1\nclass = 3", "class", "[class.test]"),
        ("version = 1\nhistory = 3", "history", "a table"),
        ("version = 1\n[kv]\nweight = true", "kv.weight", "did you mean 'weights'"),
        ("version = 1\n[kv]\norder = 1", "kv.order", "true or false"),
        ("version = 1\n[tenant]\nmemory = '0%'", "tenant.memory", "100%"),
        ("version = 1\n[session]\ncpu_weight = 10001", "session.cpu_weight", "10000"),
        ("version = 1\n[[rule]]\nclass = 'tset'\ntool = 'x'\n[class.test]", "rule 1: class", "did you mean 'test'"),
        ("version = 1\n[[rule]]\nclass = 'default'", "rule 1", "matches everything"),
        ("version = 1\n[[rule]]\ncommand = 'x'", "rule 1: class", "is missing"),
        ("version = 1\n[[rule]]\nclass = 'default'\ncommand = [' ']", "rule 1: command", "list of words"),
        ("version = 1\n[defaults]\nmemory_cap = '1G'\nmemory_max = '2G'", "defaults.memory_max", "above memory_cap"),
        ("version = 1\n[transparent]\nnew_session = 1", "transparent.new_session", "true or false"),
        ("version = 1\n[transparent]\nprograms = ['/bin/sh']", "transparent.programs", "without folders"),
        ("version = 1\n[transparent]\nprogram = ['sh']", "transparent.program", "did you mean 'programs'"),
        ("version = 1\nextends = 'defalt'", "extends", "did you mean 'default'"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_key(write, text, place, words):
    path = write(text)
    with pytest.raises(InvalidInput) as caught:
        load(path)
    assert caught.value.place == f"{path}: {place}"
    assert words in str(caught.value)
    assert caught.value.hint


def test_what_is_not_toml_is_told_by_line(write):
    with pytest.raises(InvalidInput, match=r"my\.toml: is not TOML: .*line 2"):
        load(write("version = 1\nname =\n"))
    with pytest.raises(InvalidInput, match=r"is not UTF-8 \(at line 2\)"):
        load(write(b"version = 1\nname = '\xff'"))
    with pytest.raises(InvalidInput, match="is not TOML"):
        load(write("version = 1\na = " + "[" * 50_000))
    with pytest.raises(InvalidInput, match="larger than 1 MiB"):
        load(write("#" * (1 << 20) + "\n"))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.toml: cannot be read: No such file"):
        load(str(tmp_path / "none.toml"))
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        load(f"{tmp_path}/")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load("a\0b.toml")
    with pytest.raises(InvalidInput, match=r"no preset 'strcit'.*did you mean 'strict'"):
        load("strcit")
