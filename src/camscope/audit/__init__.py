"""The audit of a study: does a model rely on the disease, or on a shortcut?"""
