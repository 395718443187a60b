"""How good generated meshes are."""
