//! The composition root: opens the stores, starts the tasks in the order in which they depend on each
//! other, and ends them in the reverse order. The only file that names concrete stores.
