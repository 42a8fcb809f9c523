"""`prfaas status`: what the cluster says (gather), what that means (judge, view), how it looks (text)."""
