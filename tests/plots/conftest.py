import pytest
import small_experiment

from progguide_jax.plots import plane, time_curves


@pytest.fixture(scope="session")
def experiment():
    return small_experiment.make()


@pytest.fixture(scope="session")
def figures(experiment):
    """One of each."""
    data, cells = experiment.data, experiment.cells
    cell = cells["gn", 100.0]
    return {
        "gradnorm": time_curves.gradnorm(small_experiment.curve_arrays(3)),
        "omega": time_curves.omega_curves(cell["timesteps"], {"gn": cell["omega"]}),
        "data": plane.data_pca(
            data["plane"], data["labels"], data["images"], data["image_labels"],
            data["explained"],
        ),
        "distributions": plane.distributions(cells, data["plane"]),
        "trajectories": plane.trajectories(cells, per_class=3),
        "zoom": plane.zoom(cells, 100.0),
        "class_axis": plane.class_axis(cells, 4.0, per_class=3),
        "closeness": time_curves.closeness(small_experiment.closeness_arrays()),
        "loss": time_curves.loss_curve(small_experiment.metric_rows(), floor=0.2),
    }  # fmt: skip
