//! What every implementation of the catalog port must do.
