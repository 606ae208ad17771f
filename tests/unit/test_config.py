"""Settings are read from a mapping; each test says which variables are set."""

import pytest

from rdmatrain import config
from rdmatrain.errors import SettingError


def test_nothing_set_gives_the_defaults() -> None:
    assert config.load_settings({}) == config.Settings(
        transport="auto", addr="", arena="", log="warning"
    )


def test_each_variable_sets_its_own_field() -> None:
    environ = {
        "RDMATRAIN_TRANSPORT": "tcp",
        "RDMATRAIN_ADDR": " 10.0.0.7 ",
        "RDMATRAIN_ARENA": "off",
        "RDMATRAIN_LOG": "debug",
    }
    assert config.load_settings(environ) == config.Settings("tcp", "10.0.0.7", "off", "debug")


def test_an_empty_variable_counts_as_unset() -> None:
    assert config.load_settings({"RDMATRAIN_TRANSPORT": ""}).transport == "auto"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("RDMATRAIN_TRANSPORT", "infiniband", "auto, verbs, shm, tcp"),
        ("RDMATRAIN_TRANSPORT", "TCP", "auto, verbs, shm, tcp"),
        ("RDMATRAIN_ARENA", "1", "on, off"),
        ("RDMATRAIN_LOG", "loud", "error, warning, info, debug"),
        ("RDMATRAIN_RECORDER", "many", "a number from 0 to 1048576"),
        ("RDMATRAIN_RECORDER", "-1", "a number from 0 to 1048576"),
        ("RDMATRAIN_RECORDER", "1048577", "a number from 0 to 1048576"),
        ("RDMATRAIN_RECORDER_SIGNAL", "SIGUSR1", "USR1, USR2"),
        ("RDMATRAIN_REQUIRE", "auto", "verbs, shm, tcp"),
        ("RDMATRAIN_GID_INDEX", "256", "a number from 0 to 255"),
        ("RDMATRAIN_GID_INDEX", "0x3", "a number from 0 to 255"),
        ("RDMATRAIN_TRAFFIC_CLASS", "256", "a number from 0 to 255"),
        ("RDMATRAIN_SERVICE_LEVEL", "16", "a number from 0 to 15"),
        ("RDMATRAIN_PKEY", "65536", "a number from 0 to 65535"),
        ("RDMATRAIN_RETRY_MS", "600001", "a number from 0 to 600000"),
        ("RDMATRAIN_MTU", "1500", "256, 512, 1024, 2048, 4096"),
        ("RDMATRAIN_MTU", "9000", "256, 512, 1024, 2048, 4096"),
        ("RDMATRAIN_DEVICES", "mlx5_0,", "mlx5_0:1,mlx5_2, or ^mlx5_3"),
        ("RDMATRAIN_DEVICES", "mlx5_0:0", "mlx5_0:1,mlx5_2, or ^mlx5_3"),
        ("RDMATRAIN_DEVICES", "mlx5_0,^mlx5_1", "mlx5_0:1,mlx5_2, or ^mlx5_3"),
        ("RDMATRAIN_DEVICES", "^", "mlx5_0:1,mlx5_2, or ^mlx5_3"),
        ("RDMATRAIN_DEVICES", "mlx5_0/1", "mlx5_0:1,mlx5_2, or ^mlx5_3"),
        ("RDMATRAIN_DEVICES", "=", "or =mlx5_0 for this rank's own"),
        ("RDMATRAIN_DEVICES", "=^mlx5_0", "or =mlx5_0 for this rank's own"),
        ("RDMATRAIN_DEVICES", "==mlx5_0", "or =mlx5_0 for this rank's own"),
    ],
)
def test_a_wrong_value_names_variable_value_and_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingError) as caught:
        config.load_settings({name: value})
    text = str(caught.value)
    assert name in text and repr(value) in text and allowed in text
    assert "\n" not in text


def test_the_settings_of_rdma_are_read() -> None:
    environ = {
        "RDMATRAIN_TRANSPORT": "verbs",
        "RDMATRAIN_REQUIRE": "verbs",
        "RDMATRAIN_GID_INDEX": "0",
        "RDMATRAIN_TRAFFIC_CLASS": "106",
        "RDMATRAIN_SERVICE_LEVEL": "3",
        "RDMATRAIN_PKEY": "1",
        "RDMATRAIN_MTU": "1024",
        "RDMATRAIN_RETRY_MS": "8000",
    }
    settings = config.load_settings(environ)
    for name, value in environ.items():
        assert getattr(settings, name.removeprefix("RDMATRAIN_").lower()) == value


@pytest.mark.parametrize(
    ("text", "allowed", "refused"),
    [
        ("", ["mlx5_0/1", "rxe0/2"], []),
        ("mlx5_0:1, mlx5_2", ["mlx5_0/1", "mlx5_2/1", "mlx5_2/2"], ["mlx5_0/2", "mlx5_20/1"]),
        ("^mlx5_3", ["mlx5_0/1", "mlx5_33/1"], ["mlx5_3/1", "mlx5_3/2"]),
        ("^mlx5_3:2,^mlx5_4", ["mlx5_3/1"], ["mlx5_3/2", "mlx5_4/1"]),
        ("^mlx5_3,mlx5_4", ["mlx5_5/1"], ["mlx5_3/1", "mlx5_4/1"]),
        ("mlx5_bond_0", ["mlx5_bond_0/1"], ["mlx5_bond_1/1", "mlx5_0/1"]),
    ],
)
def test_devices_are_named_whole_or_excluded(
    text: str, allowed: list[str], refused: list[str]
) -> None:
    devices = config.load_settings({"RDMATRAIN_DEVICES": text}).device_list
    for name in allowed + refused:
        device, _, port = name.partition("/")
        assert devices.allows(device, int(port)) == (name in allowed)
    assert devices.demands == text.startswith("mlx5")


@pytest.mark.parametrize("transport", ["verbs", "shm", "tcp"])
@pytest.mark.parametrize("require", ["verbs", "shm", "tcp"])
def test_what_is_required_may_not_contradict_the_transport(transport: str, require: str) -> None:
    environ = {"RDMATRAIN_TRANSPORT": transport, "RDMATRAIN_REQUIRE": require}
    if transport == require:
        assert config.load_settings(environ).require == require
        return
    with pytest.raises(SettingError, match="contradict") as caught:
        config.load_settings(environ)
    assert f"RDMATRAIN_TRANSPORT={transport} and RDMATRAIN_REQUIRE={require}" in str(caught.value)


def test_what_is_given_otherwise_wins_and_is_called_so() -> None:
    environ = {"RDMATRAIN_TRANSPORT": "nonsense", "RDMATRAIN_REQUIRE": "tcp"}
    settings = config.load_settings(environ, {"transport": "tcp", "require": ""}, "--{}")
    assert (settings.transport, settings.require) == ("tcp", "tcp")
    assert settings.name_of("transport") == "--transport"
    assert settings.name_of("require") == "RDMATRAIN_REQUIRE"
    with pytest.raises(SettingError, match=r"^--transport='ib' is not allowed"):
        config.load_settings(environ, {"transport": "ib"}, "--{}")


def test_the_process_environment_is_read_when_no_mapping_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RDMATRAIN_LOG", "info")
    assert config.load_settings().log == "info"


def test_unknown_settings_are_listed_with_the_name_they_resemble() -> None:
    environ = {"RDMATRAIN_TRANPORT": "tcp", "RDMATRAIN_LOG": "info", "OTHER": "1"}
    (unknown,) = config.unknown_settings(environ)
    assert (unknown.name, unknown.suggestion) == ("RDMATRAIN_TRANPORT", "RDMATRAIN_TRANSPORT")
    assert "did you mean RDMATRAIN_TRANSPORT?" in str(unknown)


def test_an_unknown_setting_like_no_other_lists_the_known_ones() -> None:
    (unknown,) = config.unknown_settings({"RDMATRAIN_QQ": "1"})
    assert unknown.suggestion == ""
    assert all(name in str(unknown) for name in config.known_names())


def test_known_settings_are_not_listed_as_unknown() -> None:
    assert config.unknown_settings(dict.fromkeys(config.known_names(), "x")) == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("25", 25.0), ("2.5", 2.5), ("", None), ("-1", None), ("nan", None)]
)
def test_the_grace_period_is_what_the_launcher_says(text: str, seconds: float | None) -> None:
    assert config.grace_s({"RDMATRAIN_GRACE": text}) == seconds
    assert config.grace_s({}) is None
    assert config.unknown_settings({"RDMATRAIN_GRACE": text}) == []


def test_rank_env_reads_the_launchers_variables() -> None:
    environ = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    who = config.rank_env(environ)
    assert who == config.RankEnv(rank=3, local_rank=1, world_size=4, local_world_size=2)
    assert str(who) == "rank 3 of 4"


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "\u0663"])
def test_rank_env_takes_junk_as_unset(text: str) -> None:
    who = config.rank_env({"RANK": text})
    assert who.rank is None
    assert str(who) == "rank ?"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}, True),
        ({"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}, False),
        ({"TORCH_DEVICE_BACKEND_AUTOLOAD": ""}, False),
    ],
)
def test_autoload_follows_torchs_rule(environ: dict[str, str], expected: bool) -> None:
    assert config.device_backend_autoload(environ) is expected


def test_master_addr_is_empty_when_unset() -> None:
    assert config.master_addr({}) == ""
    assert config.master_addr({"MASTER_ADDR": " node-0 "}) == "node-0"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_color_honours_no_color_and_dumb_terminals(environ: dict[str, str], expected: bool) -> None:
    assert config.color_allowed(environ) is expected


def test_traces_go_where_the_setting_says() -> None:
    settings = config.load_settings({"RDMATRAIN_RECORDER_DIR": "/traces"})
    assert config.recorder_folder(settings, {"MASTER_PORT": "29500"}) == "/traces"


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({"TORCHELASTIC_RUN_ID": "run 7", "MASTER_PORT": "29500"}, "run 7"),
        ({"TORCHELASTIC_RUN_ID": "none", "MASTER_PORT": "29500"}, "29500"),
        ({"TORCHELASTIC_RUN_ID": "../../etc"}, ".._.._etc"),
        ({}, "job"),
    ],
)
def test_traces_go_to_a_folder_of_the_job_in_the_cache(environ: dict[str, str], job: str) -> None:
    folder = config.recorder_folder(config.Settings(), {"XDG_CACHE_HOME": "/cache", **environ})
    assert folder == f"/cache/rdmatrain/flight-recorder/{job}"
