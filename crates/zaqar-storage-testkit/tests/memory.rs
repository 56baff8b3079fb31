//! The store in memory shows every behaviour.

zaqar_storage_testkit::behaviour!(zaqar_storage_testkit::Memories::new());
