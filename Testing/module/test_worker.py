"""The worker process and its client, without any panel."""

import os
import signal
import time

import pytest
from workplace import DATA, PYTHON, needsTorch, strangeWorker, workerEnvironment

pytestmark = needsTorch
WORKER = [PYTHON, "-u", "-m", "synthmorph_torch.worker"]


class Answers:
    """Collects what the client is told."""

    def __init__(self):
        self.results, self.errors, self.stages = [], [], []

    def send(self, client, **message):
        client.send(message, self.results.append, self.errors.append, lambda m: self.stages.append(m["stage"]))


@pytest.fixture
def images(host, tmp_path):
    """Files of a fixed and a moving head, and an empty folder for results."""
    if DATA is not None:
        return str(DATA / "oasis/oasis_test_t1.nii.gz"), str(DATA / "malf/1000_t1.nii.gz"), str(tmp_path)
    import numpy as np
    import slicer
    from SynthMorphSlicerLib import scene
    from workplace import twoHeads
    nodes = twoHeads()
    paths = [scene.writeVolume(node, tmp_path / f"{node.GetName()}.mha", np.eye(4)) for node in nodes]
    for node in nodes:
        slicer.mrmlScene.RemoveNode(node)
    return (*paths, str(tmp_path))


@pytest.fixture
def makeClient(host):
    from SynthMorphSlicerLib.worker_client import WorkerClient
    clients = []

    def make(command, **environment):
        clients.append(WorkerClient(lambda: command, lambda: {**workerEnvironment(), **environment}))
        return clients[-1]

    yield make
    for client in clients:
        client.cancel()


def registration(images, **options):
    fixed, moving, folder = images
    return {"command": "register", "fixed": fixed, "moving": moving, "model": "compact", "device": "cpu",
            "options": {"transform": "affine", **options}, "outputs": {"folder": folder}}


def test_it_starts_only_when_asked_and_answers(makeClient):
    client, answers = makeClient(WORKER), Answers()
    assert not client.isRunning()
    answers.send(client, command="probe")
    assert client.wait(60)
    assert answers.results[0]["torch"] and not client.isBusy()
    answers.send(client, command="nonsense")
    client.wait(10)
    assert answers.errors[0]["message"] == "The worker knows no command 'nonsense'."


def test_prints_of_libraries_do_not_disturb_the_messages(makeClient, images):
    client, answers = makeClient(strangeWorker("noise")), Answers()
    answers.send(client, **registration(images))
    assert client.wait(120)
    assert answers.results and not answers.errors
    assert "and so does C++" in client.log()


def test_newest_lambda_wins(makeClient, images):
    client, answers = makeClient(WORKER), Answers()
    answers.send(client, **registration(images, transform="joint", refine=0))
    assert client.wait(180) and answers.results
    for number in range(10):
        answers.send(client, command="relambda", regularization=0.05 + 0.09 * number, outputs={"folder": images[2]})
    assert client.wait(180)
    shown = [answer["provenance"]["regularization"] for answer in answers.results[1:]]
    assert shown[-1] == pytest.approx(0.86) and len(shown) <= 3
    assert not answers.errors


def test_preview_comes_before_the_whole_refinement(makeClient, images):
    client, answers = makeClient(WORKER), Answers()
    answers.send(client, **registration(images, transform="joint", refine=6))
    assert client.wait(180) and answers.results
    for preview in (True, False):
        answers.send(client, command="relambda", regularization=0.4, preview=preview, outputs={"folder": images[2]})
        assert client.wait(180) and not answers.errors
    assert [answer["provenance"]["preview"] for answer in answers.results] == [False, True, False]
    assert [answer["provenance"]["refine"] for answer in answers.results] == [6] * 3


def test_threads_of_one_request_are_not_those_of_the_next(makeClient, images):
    client, answers = makeClient(WORKER), Answers()
    for threads in (None, 1, 0):
        if threads is not None:
            answers.send(client, **{**registration(images), "threads": threads})
        answers.send(client, command="probe")
        assert client.wait(180) and not answers.errors
    before, one, after = (answer["threads"] for answer in answers.results if "threads" in answer)
    assert one == 1 and after == before


def test_cancel_ends_the_process_within_a_second_and_the_next_request_starts_another(makeClient, images):
    client, answers = makeClient(WORKER), Answers()
    answers.send(client, **registration(images, transform="joint"))
    while "affine transform" not in answers.stages:
        client.poll()
        time.sleep(0.01)
    process = client.processID()
    began = time.monotonic()
    client.cancel()
    assert time.monotonic() - began < 1
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not client.isBusy() and not answers.results
    answers.send(client, command="probe")
    assert client.wait(60) and answers.results and client.processID() != process


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="looks for child processes the Linux way")
def test_cancel_ends_what_a_launcher_has_started(makeClient):
    """PythonSlicer is a launcher: the Python that holds the GPU is its child."""
    client, answers = makeClient(["/bin/sh", "-c", f"'{PYTHON}' -u -m synthmorph_torch.worker; true"]), Answers()
    answers.send(client, command="probe")
    assert client.wait(60) and answers.results
    launcher = client.processID()
    with open(f"/proc/{launcher}/task/{launcher}/children") as file:
        child = int(file.read().split()[0])
    client.cancel()
    for process in (launcher, child):
        for _ in range(50):  # whoever adopts the child has to notice, too
            state = ""
            if os.path.exists(f"/proc/{process}/stat"):
                with open(f"/proc/{process}/stat") as file:
                    state = file.read().rsplit(")", 1)[1].split()[0]
            if state in ("", "Z"):
                break
            time.sleep(0.02)
        assert state in ("", "Z")


def test_kill_and_crash_become_one_sentence(makeClient, images):
    client, answers = makeClient(WORKER), Answers()
    answers.send(client, **registration(images, transform="joint"))
    while not answers.stages:
        client.poll()
        time.sleep(0.01)
    os.kill(client.processID(), signal.SIGKILL)
    assert client.wait(10)
    assert "memory ran out" in answers.errors[0]["message"]
    client, answers = makeClient(strangeWorker("abort")), Answers()
    answers.send(client, **registration(images))
    assert client.wait(60)
    assert answers.errors[0]["message"].startswith("The registration process crashed (signal 6)")


@pytest.mark.skipif(os.name == "nt", reason="plays a process that takes no requests with a Unix program")
def test_a_process_that_never_answers_is_given_up(makeClient, monkeypatch):
    from SynthMorphSlicerLib import worker_client
    monkeypatch.setattr(worker_client, "SILENT_SECONDS", 0.3)
    client, answers = makeClient(["sleep", "600"]), Answers()
    answers.send(client, command="probe")
    process = client.processID()
    assert client.wait(10) and "does not answer" in answers.errors[0]["message"]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_long_job_is_not_taken_for_silence(makeClient, images, monkeypatch):
    from SynthMorphSlicerLib import worker_client
    client, answers = makeClient(strangeWorker("slow")), Answers()
    answers.send(client, **registration(images))
    while not answers.stages:
        client.poll()
    monkeypatch.setattr(worker_client, "SILENT_SECONDS", 0.0)
    assert client.wait(120) and answers.results and not answers.errors


@pytest.mark.skipif(os.name == "nt", reason="plays the launcher with a shell")
def test_crash_behind_a_launcher_becomes_one_sentence(makeClient, images):
    """PythonSlicer says that its child has crashed, and ends with code 1 whatever the child's was."""
    launcher = "\"$@\" || { echo 'error: [python-real] exit abnormally - Report the problem.' >&2; exit 1; }"
    client, answers = makeClient(["/bin/sh", "-c", launcher, "launcher", *strangeWorker("abort")]), Answers()
    answers.send(client, **registration(images))
    assert client.wait(60)
    assert answers.errors[0]["message"].startswith("The registration process crashed, or the system ended it")
    assert "exit abnormally" in answers.errors[0]["details"]


def test_out_of_memory_becomes_one_sentence_and_frees_the_model(makeClient, images):
    client, answers = makeClient(strangeWorker("memory")), Answers()
    answers.send(client, **registration(images))
    assert client.wait(60)
    assert "memory" in answers.errors[0]["message"] and answers.errors[0]["message"].count(".") == 1
    assert client.isRunning()


def test_missing_torch_is_told(makeClient):
    client, answers = makeClient(strangeWorker("torchless")), Answers()
    answers.send(client, command="probe")
    assert client.wait(30)
    assert answers.errors[0]["kind"] == "torch" and "install PyTorch" in answers.errors[0]["message"]


def test_a_python_that_is_not_there(makeClient):
    client, answers = makeClient(["/nowhere/python", "-m", "synthmorph_torch.worker"]), Answers()
    answers.send(client, command="probe")
    assert client.wait(10)
    assert answers.errors[0]["message"].startswith("The registration worker cannot be started")


def test_idle_worker_forgets_and_says_so(makeClient, images):
    client, answers = makeClient(WORKER, SYNTHMORPH_IDLE_SECONDS="0.5"), Answers()
    answers.send(client, **registration(images))
    assert client.wait(120) and answers.results
    time.sleep(1.5)
    answers.send(client, command="relambda", regularization=0.3, outputs={"folder": images[2]})
    assert client.wait(10)
    assert answers.errors[0]["kind"] == "released"


def test_worker_ends_with_its_parent(makeClient):
    client, answers = makeClient(WORKER), Answers()
    answers.send(client, command="probe")
    client.wait(60)
    process = client._process
    process.stdin.close()  # what happens when Slicer dies
    assert process.wait(10) == 0


def test_sweep_tries_lambdas_of_the_last_registration(makeClient, images):
    client, answers = makeClient(WORKER), Answers()
    answers.send(client, command="sweep", lambdas=[0.3])
    assert client.wait(60) and answers.errors[0]["kind"] == "released"
    answers.send(client, **registration(images, transform="joint", refine=0))
    answers.send(client, command="sweep", lambdas=[0.8, 0.2])
    assert client.wait(180) and len(answers.errors) == 1
    points = answers.results[1]["points"]
    assert [point["regularization"] for point in points] == [0.2, 0.8]
    assert points[0]["sd_log"] > points[1]["sd_log"] and points[0]["similarity"] > 1
