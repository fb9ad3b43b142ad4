"""Where training clips come from: one file for each kind; `opening` tells which a name is."""
