//! `[quotas]`: quotas and rates of each project.

use zaqar_auth::quotas::{Limit, Limits, Options};

use super::access::{config_dirs, find};
use crate::config::reader::Reader;

pub(super) fn read(reader: &mut Reader) -> Option<Options> {
    let dirs = config_dirs(reader);
    let mut section = reader.section("quotas");
    let default = Limit::ALL.into_iter().fold(Limits::default(), |limits, limit| {
        limits.with(limit, section.number(limit.option()))
    });
    let projects_file = section.optional_text("projects_file").map(|path| find(&dirs, &path));
    let is_managed = section.boolean("managed");
    let options = Options { default, projects_file, is_managed };
    (options != Options::default()).then_some(options)
}
