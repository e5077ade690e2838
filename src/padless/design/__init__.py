"""Search of model shapes for given GPUs: parameters and hardware in, Pareto front out."""
