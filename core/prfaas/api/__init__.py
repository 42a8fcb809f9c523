"""The custom resources of prfaas.io and the documents that the parts exchange through them."""
