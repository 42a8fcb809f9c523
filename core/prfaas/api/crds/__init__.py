"""CustomResourceDefinitions and their reference, generated from the models of `prfaas.api.v1alpha1`."""
