"""Conformance checks for the authors of plugins.

Each check is a function that takes an optimizee, a learned optimizer or an estimator, and raises
:class:`AssertionError` with what is wrong. A test of a plugin is three lines, and names the check that failed::

    @pytest.mark.parametrize("check", optimizee_checks())
    def test_rosenbrock(check):
        check(Rosenbrock())
"""

from meta_opt.testing.estimators import check_estimator, estimator_checks
from meta_opt.testing.meta_gradients import check_meta_gradient
from meta_opt.testing.optimizees import check_optimizee, optimizee_checks
from meta_opt.testing.optimizers import check_optimizer, optimizer_checks

__all__ = [
    "check_estimator",
    "check_meta_gradient",
    "check_optimizee",
    "check_optimizer",
    "estimator_checks",
    "optimizee_checks",
    "optimizer_checks",
]
