//! What every implementation of the journal port must do.
