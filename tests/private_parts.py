"""Every private part of a library that we import, call or override, with the reason; tests/private_names.py has names.

tests/test_private_parts.py checks that each part is still as it was when it was read, that each is used, and that no
other private name is imported or called. Wherever a public way costs less than 2 s of CPU time at the start of a
training, the public way is taken. After an update of a library that changes a part: read its new source, adapt the
users, then set `read_in` and `expects` here.
"""

from __future__ import annotations

from typing import NamedTuple

RAY, MLFLOW, DVC, OPTUNA = "ray 2.60.0", "mlflow 3.17.2", "dvc 3.67.1", "optuna 5.0.0"
FSSPEC, TORCH, TORCHVISION = "fsspec 2026.9.0", "torch 2.15.0", "torchvision 0.29.2"

TRAINING = "pipeline/cluster/training.py"
WORKER = "pipeline/cluster/worker.py"
STORES = "pipeline/storage/stores.py"
FLAKY = "tests/flaky.py"
TEST_CLUSTER = "tests/pipeline/test_cluster.py"
TEST_STORAGE = "tests/pipeline/test_cluster_storage.py"


class Part(NamedTuple):
    """A module, class, function, method or attribute.

    Attributes:
        name: dotted; an attribute that __init__ sets is named like one of the class.
        users: our files.
        reason: why it is used, and what it would cost without.
        read_in: library and version whose source was read.
        expects: names of its parameters; None where they do not matter.
    """

    name: str
    users: tuple[str, ...]
    reason: str
    read_in: str
    expects: tuple[str, ...] | None = None


_RAY_TRAIN = "ray.train.v2._internal"
_FIXED = f"{_RAY_TRAIN}.execution.scaling_policy.FixedScalingPolicy"
_TRAINER = "ray.train.torch.TorchTrainer"
_QUEUE = "the driver's events are sent without waiting for an answer; Queue.put_nowait waits for one"
_STORE_CLASS = "fsspec's documented extension point for a file system of one's own, named with an underscore"

PARTS = (
    Part(
        f"{_RAY_TRAIN}.callbacks.DatasetsCallback",
        (TRAINING,),
        "spares the actor DatasetManager, 3.1 s of CPU time per training; we use no Ray Data",
        RAY,
    ),
    Part(
        f"{_RAY_TRAIN}.callbacks.placement_group_callback.PlacementGroupCleanerCallback",
        (TRAINING,),
        "spares the actor PlacementGroupCleaner, 3.3 s of CPU time, on a Ray that ends with its driver",
        RAY,
    ),
    Part(
        f"{_TRAINER}._create_default_callbacks",
        (TRAINING,),
        "leaves the two callbacks out; no option does",
        RAY,
        ("self",),
    ),
    Part(
        f"{_TRAINER}._initialize_and_run_controller",
        (TRAINING, TEST_CLUSTER),
        "hands the controller our scaling policy; no option does",
        RAY,
        ("self", "controller_init_kwargs"),
    ),
    Part(
        _FIXED,
        (TRAINING,),
        "spares the actor _AutoscalingCoordinatorActor, 3.5 s of CPU time, where no node can be added",
        RAY,
        ("scaling_config",),
    ),
    Part(f"{_FIXED}.after_controller_start", (TRAINING,), "starts that actor", RAY, ("self", "train_run_context")),
    Part(f"{_FIXED}._maybe_send_resource_request", (TRAINING,), "calls that actor", RAY, ("self",)),
    Part(
        f"{_RAY_TRAIN}.exceptions.UserExceptionWithTraceback._base_exc",
        (TRAINING,),
        "the exception that a worker raised; the public error holds its traceback as text only",
        RAY,
    ),
    Part(
        f"{_RAY_TRAIN}.execution.context",
        (WORKER,),
        "silences its logger, which prints a line per report and worker; LoggingConfig does not reach it",
        RAY,
    ),
    Part("ray.util.queue.Queue.actor", (TRAINING, WORKER), _QUEUE, RAY),
    Part("ray.util.queue._QueueActor.put_nowait", (TRAINING, WORKER), _QUEUE, RAY, ("self", "item")),
    Part("ray.util.queue._QueueActor.empty", (WORKER,), "asked once, answered some steps later", RAY, ("self",)),
    Part(
        "mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor",
        ("pipeline/tracking/system_metrics.py",),
        "samples the machine for a run by its id; MLflow's public switch samples the process's active run only",
        MLFLOW,
        ("run_id", "sampling_interval", "samples_before_logging", "resume_logging", "node_id", "tracking_uri"),
    ),
    Part(
        "mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor._process",
        ("pipeline/tracking/system_metrics.py",),
        "its thread, which ends for good when one request fails; then sampling is started again",
        MLFLOW,
    ),
    Part(
        "fsspec.AbstractFileSystem._strip_protocol",
        (STORES, FLAKY, "tests/pipeline/test_stores.py"),
        _STORE_CLASS,
        FSSPEC,
        ("path",),
    ),
    Part(
        "fsspec.AbstractFileSystem._get_kwargs_from_urls",
        (STORES, "tests/pipeline/test_stores.py"),
        _STORE_CLASS,
        FSSPEC,
        ("path",),
    ),
    Part(
        "fsspec.implementations.arrow.ArrowFSWrapper._open",
        (STORES,),
        _STORE_CLASS,
        FSSPEC,
        ("self", "path", "mode", "block_size", "seekable", "kwargs"),
    ),
    Part(
        "torch._C._autograd._get_current_graph_task_keep_graph",
        ("retinanet/losses/maps.py",),
        "the gradient may be scaled in place unless the graph is kept; without it, it is always copied",
        TORCH,
    ),
    Part(
        "torch.Tensor._version",
        ("retinanet/network/backbone.py",),
        "scale and shift of a frozen norm are computed again only when its buffers were written to",
        TORCH,
    ),
    Part(
        "optuna.distributions.BaseDistribution._contains",
        ("pipeline/sweep/sampler.py",),
        "a point outside the space is not enqueued; Optuna would warn and sample it otherwise",
        OPTUNA,
        ("self", "param_value_in_internal_repr"),
    ),
    # ---- in tests only ----
    Part(
        "torch.utils._python_dispatch.TorchDispatchMode",
        (
            "tests/gpu/interpreted_kernel.py",
            "tests/gpu/tape.py",
            "tests/gpu/test_deterministic.py",
            "tests/gpu/test_graph.py",
            "tests/gpu/test_kernels.py",
            "tests/gpu/test_waits.py",
        ),
        "counts kernels, bytes and copies; torch documents it under this name",
        TORCH,
    ),
    Part(
        "torch.utils._pytree.tree_leaves",
        (
            "tests/gpu/interpreted_kernel.py",
            "tests/gpu/tape.py",
            "tests/gpu/test_deterministic.py",
            "tests/gpu/test_graph.py",
        ),
        "finds the tensors among the arguments of an operation",
        TORCH,
    ),
    Part(
        "torch._subclasses.fake_tensor.FakeTensorMode",
        ("tests/gpu/test_graph.py",),
        "CUDA tensors without a GPU; torch documents it under this name",
        TORCH,
    ),
    Part(
        "fsspec.implementations.memory.MemoryFileSystem._open",
        (FLAKY, "tests/pipeline/sweep/test_listener.py"),
        "a file system whose files fail on request",
        FSSPEC,
    ),
    *(
        Part(
            f"optuna.samplers.TPESampler.{name}",
            ("tests/pipeline/sweep/test_sampler.py",),
            "the settings of TPE are those that a sweep states",
            OPTUNA,
        )
        for name in ("_constant_liar", "_multivariate")
    ),
    Part(
        "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._workers",
        ("tests/retinanet/test_dataset.py",),
        "the loader's processes end with it",
        TORCH,
    ),
    Part(
        f"{_RAY_TRAIN}.exceptions.UserExceptionWithTraceback",
        (TEST_CLUSTER,),
        "how Ray wraps the exception of a worker",
        RAY,
        ("exc", "traceback_str"),
    ),
    *(
        Part(
            f"{_RAY_TRAIN}.execution.scaling_policy.{name}",
            (TEST_CLUSTER,),
            "what our policy answers, and that a range of workers keeps Ray's own",
            RAY,
        )
        for name in ("ElasticScalingPolicy", "ElasticScalingPolicy._coordinator_client", "NoopDecision")
    ),
    Part(
        f"{_RAY_TRAIN}.execution.scaling_policy.create_scaling_policy",
        (TEST_CLUSTER,),
        "the policy that Ray would choose",
        RAY,
        ("scaling_config",),
    ),
    *(
        Part(
            f"{_RAY_TRAIN}.{name}",
            (TEST_STORAGE,),
            "Ray's notes on checkpoints are written and read by Ray itself",
            RAY,
        )
        for name in (
            "exceptions.CheckpointManagerInitializationError",
            "execution.checkpoint.checkpoint_manager.CheckpointManager",
            "execution.checkpoint.checkpoint_manager.CheckpointManager._checkpoint_results",
            "execution.storage.StorageContext",
            "execution.training_report._TrainingReport",
        )
    ),
    *(
        Part(
            f"ray.autoscaler._private.util.{name}",
            ("tests/test_deploy.py",),
            "checks deploy/ray-cluster.yaml as `ray up` does, without a cluster",
            RAY,
            ("config",),
        )
        for name in ("prepare_config", "validate_config")
    ),
    Part(
        "ray._private.label_utils.validate_label_selector",
        ("tests/pipeline/test_placement.py",),
        "the reference for the selectors that conf/ accepts",
        RAY,
        ("label_selector",),
    ),
    Part(
        "torchvision.models.detection._utils.Matcher",
        ("tests/retinanet/test_matcher.py", "tests/retinanet/test_matcher_on_grids.py"),
        "the reference for our matcher",
        TORCHVISION,
        ("high_threshold", "low_threshold", "allow_low_quality_matches"),
    ),
)
