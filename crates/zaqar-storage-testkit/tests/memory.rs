//! The in-memory store passes every behaviour.

zaqar_storage_testkit::behaviour!(zaqar_storage_testkit::Memories::new());
