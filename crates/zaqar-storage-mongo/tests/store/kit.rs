//! The behaviour that every store shows. Each test checks, too, that an index serves each query
//! that it led to.

use crate::support::Databases;

zaqar_storage_testkit::behaviour!(Databases::default());
