//! The kit on a Cluster.

use std::sync::LazyLock;

use crate::servers::Cluster;
use crate::support::Prefixes;

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);

zaqar_storage_testkit::behaviour!(Prefixes(CLUSTER.uri()));
