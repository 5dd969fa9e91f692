"""The Ray executor on a cluster of two nodes on this machine, each with a pretended GPU."""

import socket
import threading
import time
from pathlib import Path

import pytest
import yaml

from mixkit.studies.plan import load_study
from mixkit.studies.run import lock_owner
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import run_study, states
from tests import support as small

# warnings of Ray's own, about its processes and files
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def node() -> dict[str, object]:
    """One core and one pretended GPU. With its ports given, a node does not wait for its agents to choose them."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {name: server.getsockname()[1] for name, server in zip(PORTS, sockets, strict=True)}
    for server in sockets:
        server.close()
    return {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20, **ports}


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    import ray
    from ray.cluster_utils import Cluster

    for name, value in {
        "PYTHONPATH": str(small.CLONE),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("mixkit.studies.sweep.preflight", lambda *_: [])
    made = Cluster(initialize_head=True, head_node_args={**node(), "include_dashboard": False})
    second = made.add_node(**node())
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made, second
    ray.shutdown()
    made.shutdown()


def test_a_study_survives_the_loss_of_a_node(cluster, tmp_path):
    made, second = cluster
    notebook = small.write_notebook(tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text(
        yaml.safe_dump({"parameters": small.TINY, "grid": [{"objective": "mixce", "eta": [0.0, 0.1, 0.2, 0.3]}]})
    )
    study, store, lines = load_study(file), RunStore(tmp_path / "runs"), []
    folders = [store.folder("own", run.name) for run in study.runs]
    wait = store.root / "own" / "wait"
    wait.parent.mkdir(parents=True)
    wait.touch()

    def lose_a_node():
        while sum(bool(small.began(folder)) for folder in folders) < 2:  # one on each node
            time.sleep(0.1)
        made.remove_node(second)
        while (
            not any("was killed; it goes on" in line for line in lines) or sum(map(bool, map(lock_owner, folders))) > 1
        ):
            time.sleep(0.1)  # until the lost node's kernel, which sees its worker gone, has let go of the run
        wait.unlink()

    loser = threading.Thread(target=lose_a_node, daemon=True)
    loser.start()
    done = run_study(study, store=store, executor="ray", notebook=notebook, log=lines.append)
    loser.join()
    assert lines[0].endswith("0 done, 2 at a time")
    assert [record.metrics["eta"].value for record in done] == [0.0, 0.1, 0.2, 0.3]
    times = [small.began(folder) for folder in folders]
    assert sorted(map(len, times)) == [1, 1, 1, 2], "only the lost run is executed again"
    assert {gpu for run in times for _, gpu, _ in run} == {"0"}  # of each node, its own
    assert all(lock_owner(folder) is None for folder in folders)
    assert {state.status for state in states(study, store)} == {"done"}
    assert Path(folders[0] / "notebook.ipynb").is_file()
