"""From an experiment's settings to the things they name: its task distribution, kernel and optimizers."""

from __future__ import annotations

from quadriga.metalearn import data_root, mini_imagenet, networks, omniglot, sine, tasks
from quadriga.metalearn.autograd_kernel import AutogradKernel
from quadriga.metalearn.conv_kernel import ConvKernel
from quadriga.metalearn.experiment import (
    CustomSettings,
    InnerSettings,
    MetaExperiment,
    MiniImageNetSettings,
    OmniglotSettings,
)
from quadriga.metalearn.inner import SGD, Adam, Kernel, Slot
from quadriga.metalearn.mlp_kernel import MLPKernel
from quadriga.metalearn.networks import MLP, ConvNet
from quadriga.metalearn.tasks import TaskDistribution
from quadriga.platform.errors import UserError


def make_distribution(experiment: MetaExperiment) -> TaskDistribution:
    """The task distribution, checked against what training and testing will ask of it.

    Raises:
        UserError: no data, corrupt data, more classes or images asked for than there are.
    """
    settings = experiment.task
    made: TaskDistribution
    if isinstance(settings, OmniglotSettings):
        root = data_root.resolve(settings.data_root)
        options = settings.model_dump(exclude={"kind", "data_root"})
        made = omniglot.tasks(root, **options)
    elif isinstance(settings, MiniImageNetSettings):
        root = data_root.resolve(settings.data_root)
        made = mini_imagenet.tasks(root, ways=settings.ways, filters=settings.filters)
    elif isinstance(settings, CustomSettings):
        made = tasks.custom(settings.factory, settings.options)
    else:
        made = sine.SineWaves(settings.hidden, settings.activation)
    made.check("train", experiment.inner.shots)
    made.check("test", experiment.evaluation.shots + 1)
    return made


def reduction(experiment: MetaExperiment, distribution: TaskDistribution) -> str:
    """Whether losses are summed or averaged over a batch."""
    return experiment.inner.reduction or ("sum" if distribution.loss == "cross_entropy" else "mean")


def is_vectorized(experiment: MetaExperiment) -> bool:
    """Whether a worker learns all its tasks at once."""
    compute = experiment.compute
    return compute.kernel == "vectorized" or (compute.kernel == "auto" and compute.device != "cpu")


def make_kernel(experiment: MetaExperiment, distribution: TaskDistribution) -> Kernel:
    """The kernel for one task at a time.

    Raises:
        UserError: a handwritten one is asked for and there is none for the network.
    """
    network, how = distribution.network, reduction(experiment, distribution)
    if experiment.compute.kernel != "autograd":
        if isinstance(network, ConvNet) and network.strided and distribution.loss == "cross_entropy":
            return ConvKernel(network, how)
        if isinstance(network, MLP) and distribution.loss == "squared_error":
            return MLPKernel(network, how)
        if experiment.compute.kernel == "handwritten":
            raise UserError("compute.kernel: there is no handwritten kernel for this task's network; give autograd")
    return AutogradKernel(network, distribution.loss, how)


def make_slot(settings: InnerSettings, size: int) -> Slot:
    """The inner optimizer of one slot, as it is in the beginning."""
    if settings.optimizer == "sgd":
        return SGD(settings.learning_rate)
    return Adam(size, settings.learning_rate, settings.beta2)


def size(distribution: TaskDistribution) -> int:
    """Length of the parameter vector."""
    return networks.size(distribution.network)
