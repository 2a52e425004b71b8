"""The class-activation-map family: each method a function of a trace."""

from camscope.methods import activation, gradient, perturbation
from camscope.methods.registry import CLASS_AGNOSTIC, METHODS, Method, method

__all__ = ["CLASS_AGNOSTIC", "METHODS", "Method", "activation", "gradient", "method", "perturbation"]
