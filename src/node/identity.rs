//! Who a node is. Once info.yaml exists, it decides.

use crate::engine;
use crate::error::{Error, Result};
use crate::node::Config;
use crate::node::files::Entry;

/// The id to run with at `address`.
pub(crate) fn decide(config: &Config, address: &str, known: Option<&Entry>) -> Result<u64> {
    let Some(known) = known else {
        return Ok(config.id);
    };
    // An id that was generated was not chosen; go-dqlite generates others.
    let chosen = config.id != engine::generate_id(&config.address.to_string())?;
    if known.address != address || (chosen && known.id != config.id) {
        return Err(Error::invalid(format!(
            "data_dir {} belongs to node {} at {}, as its info.yaml says, not to node {} at {address}; start it as that \
             node, or name another directory",
            config.dir.display(),
            known.id,
            known.address,
            config.id
        )));
    }
    Ok(known.id)
}
