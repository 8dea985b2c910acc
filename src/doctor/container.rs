//! Is this a container on a bridge, which a broadcast cannot leave?

use std::path::Path;

use super::Finding;
use super::link::Link;

/// Docker and podman put these into every container, also into one with the host's network.
const MARKS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// `None` if nothing is to leave this host.
pub fn check(used: &[(&str, Link)]) -> Option<Finding> {
    let mark = MARKS.into_iter().find(|mark| Path::new(mark).exists());
    of_links(used, mark)
}

fn of_links(used: &[(&str, Link)], mark: Option<&str>) -> Option<Finding> {
    let names = |bridged: bool| {
        // A macvlan or a VLAN leads elsewhere too, and there it is on the LAN.
        let links = used.iter().filter(|(_, link)| (link.is_veth && link.leads_elsewhere) == bridged);
        links.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let (free, bridged) = (names(false), names(true));
    if !free.is_empty() {
        return Some(Finding::green(format!("no bridge of a container is in the way of {free}")));
    }
    if bridged.is_empty() {
        return None;
    }
    let mark = mark.map_or(String::new(), |mark| format!(" ({mark} says that this is one)"));
    Some(Finding::yellow(
        format!(
            "{bridged}: a veth whose other end is in another network namespace, as in a container on a bridge{mark}: \
             a broadcast reaches that bridge and not the LAN, unless the bridge has the LAN's interface in it"
        ),
        "give it the host's network (docker run --network host)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn only_a_veth_that_leads_elsewhere_is_suspected() {
        let link = |is_veth, leads_elsewhere| Link { index: 2, mtu: Some(1500), is_veth, leads_elsewhere };
        let (card, macvlan, veth) = (link(false, false), link(false, true), link(true, true));
        let level = |used: &[(&str, Link)]| of_links(used, None).map(|finding| finding.level);
        assert_eq!(level(&[]), None);
        assert_eq!(level(&[("eth0", card)]), Some(Level::Green));
        assert_eq!(level(&[("eth0", macvlan)]), Some(Level::Green));
        assert_eq!(level(&[("lan0", link(true, false))]), Some(Level::Green), "both ends are here");
        assert_eq!(level(&[("eth0", veth), ("eth1", card)]), Some(Level::Green));
        assert_eq!(level(&[("eth0", veth), ("eth1", veth)]), Some(Level::Yellow));
        let finding = of_links(&[("eth0", veth)], Some("/.dockerenv")).unwrap();
        assert!(finding.what.contains("on a bridge (/.dockerenv says that this is one): "), "{finding:?}");
    }
}
