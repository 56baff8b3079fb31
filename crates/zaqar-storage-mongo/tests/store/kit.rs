//! The behaviour tests of the kit. Each test also checks that an index serves each query that it
//! sent.

use crate::support::Databases;

zaqar_storage_testkit::behaviour!(Databases::default());
