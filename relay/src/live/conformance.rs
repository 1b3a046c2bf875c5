//! What every implementation of the live port must do.
