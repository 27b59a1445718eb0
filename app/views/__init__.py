"""One module per page; each draws itself with ``view()`` and computes nothing."""
