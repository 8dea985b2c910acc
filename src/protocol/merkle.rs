//! The Merkle tree of RFC 9162, section 2.1, over the datagrams of one batch.
//!
//! The RFC splits `n` leaves at the largest power of two below `n`. Pairing neighbours level by level,
//! where an odd last node moves up as it is, builds the same tree; the tests compare the two.

use ring::digest::{Context, Digest, SHA256, digest};

pub const HASH_LEN: usize = 32;
pub type Hash = [u8; HASH_LEN];

/// A leaf and a node never hash the same bytes, so that neither can be shown as the other.
pub fn leaf(bytes: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0]);
    context.update(bytes);
    hash(context.finish())
}

pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 1 + 2 * HASH_LEN];
    bytes[1..=HASH_LEN].copy_from_slice(left);
    bytes[1 + HASH_LEN..].copy_from_slice(right);
    sha256(&bytes)
}

pub fn sha256(bytes: &[u8]) -> Hash {
    hash(digest(&SHA256, bytes))
}

fn hash(digest: Digest) -> Hash {
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Every level of the tree, the leaves first and the root last.
pub struct Tree {
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// Panics without a leaf: there is no batch of none.
    pub fn new(leaves: Vec<Hash>) -> Self {
        assert!(!leaves.is_empty(), "a tree has at least one leaf");
        let mut levels = vec![leaves];
        while let Some(below) = levels.last()
            && below.len() > 1
        {
            let pairs = below.chunks(2).map(|pair| match pair {
                [left, right] => node(left, right),
                odd => odd[0],
            });
            levels.push(pairs.collect());
        }
        Self { levels }
    }

    pub fn root(&self) -> Hash {
        self.levels.last().expect("the leaves at least")[0]
    }

    /// The audit path of the leaf `index`: its sibling on each level that has one, from below.
    pub fn path(&self, index: usize) -> impl Iterator<Item = &Hash> {
        self.levels.iter().enumerate().filter_map(move |(level, hashes)| hashes.get((index >> level) ^ 1))
    }
}

/// How many nodes the audit path of leaf `index` among `count` has.
pub fn path_len(index: u16, count: u16) -> usize {
    levels(index, count).filter(|sibling| *sibling != Sibling::None).count()
}

/// The root that `leaf` has if it is number `index` of `count` and `path`, the nodes one after the other,
/// is its audit path; `None` if the path has another length.
pub fn root_of_path(leaf: Hash, index: u16, count: u16, path: &[u8]) -> Option<Hash> {
    let (nodes, rest) = path.as_chunks::<HASH_LEN>();
    if !rest.is_empty() || nodes.len() != path_len(index, count) {
        return None;
    }
    let mut nodes = nodes.iter();
    levels(index, count).try_fold(leaf, |hash, sibling| match sibling {
        Sibling::Left => Some(node(nodes.next()?, &hash)),
        Sibling::Right => Some(node(&hash, nodes.next()?)),
        Sibling::None => Some(hash),
    })
}

/// On which side of the way from a leaf to the root the other node is.
#[derive(PartialEq)]
enum Sibling {
    Left,
    Right,
    /// The odd last node of a level, which moves up.
    None,
}

fn levels(index: u16, count: u16) -> impl Iterator<Item = Sibling> {
    let mut at = index;
    let mut last = count.saturating_sub(1);
    std::iter::from_fn(move || {
        if last == 0 {
            return None;
        }
        let sibling = match (at & 1, at < last) {
            (1, _) => Sibling::Left,
            (_, true) => Sibling::Right,
            (_, false) => Sibling::None,
        };
        at >>= 1;
        last >>= 1;
        Some(sibling)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(bytes: &[u8]) -> Hash {
        digest(&SHA256, bytes).as_ref().try_into().unwrap()
    }

    /// MTH of RFC 9162, section 2.1.1, word for word.
    fn mth(d: &[Vec<u8>]) -> Hash {
        match d {
            [d0] => sha256(&[&[0][..], d0].concat()),
            _ => {
                let k = split(d.len());
                sha256(&[&[1][..], &mth(&d[..k]), &mth(&d[k..])].concat())
            }
        }
    }

    /// PATH of RFC 9162, section 2.1.3.1, word for word.
    fn path(m: usize, d: &[Vec<u8>]) -> Vec<Hash> {
        if d.len() == 1 {
            return Vec::new();
        }
        let k = split(d.len());
        let (mut nodes, other) = match m < k {
            true => (path(m, &d[..k]), mth(&d[k..])),
            false => (path(m - k, &d[k..]), mth(&d[..k])),
        };
        nodes.push(other);
        nodes
    }

    /// The largest power of two smaller than `n`.
    fn split(n: usize) -> usize {
        let mut k = 1;
        while k * 2 < n {
            k *= 2;
        }
        k
    }

    fn entries(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|i| format!("entry {i}").into_bytes()).collect()
    }

    fn tree(entries: &[Vec<u8>]) -> Tree {
        Tree::new(entries.iter().map(|entry| leaf(entry)).collect())
    }

    #[test]
    fn root_and_every_path_are_those_of_the_rfc() {
        for count in (1..=64).chain([512]) {
            let entries = entries(count);
            let tree = tree(&entries);
            assert_eq!(tree.root(), mth(&entries), "{count}");
            for index in 0..count {
                let nodes: Vec<Hash> = tree.path(index).copied().collect();
                assert_eq!(nodes, path(index, &entries), "{index} of {count}");
                let (index, count) = (index as u16, count as u16);
                assert_eq!(path_len(index, count), nodes.len(), "{index} of {count}");
                let root = root_of_path(leaf(&entries[usize::from(index)]), index, count, &nodes.concat());
                assert_eq!(root, Some(tree.root()), "{index} of {count}");
            }
        }
    }

    #[test]
    fn another_index_or_path_has_another_root() {
        for count in 1..=64 {
            let entries = entries(usize::from(count));
            let tree = tree(&entries);
            for index in 0..count {
                let leaf = leaf(&entries[usize::from(index)]);
                let nodes: Vec<u8> = tree.path(index.into()).flatten().copied().collect();
                for other in (0..count).filter(|other| *other != index) {
                    assert_ne!(
                        root_of_path(leaf, other, count, &nodes),
                        Some(tree.root()),
                        "{index} as {other}"
                    );
                }
                for at in 0..nodes.len() {
                    let mut changed = nodes.clone();
                    changed[at] ^= 1;
                    assert_ne!(root_of_path(leaf, index, count, &changed), Some(tree.root()));
                }
                let swapped: Vec<u8> = nodes.rchunks(HASH_LEN).flatten().copied().collect();
                if swapped != nodes {
                    assert_ne!(root_of_path(leaf, index, count, &swapped), Some(tree.root()));
                }
            }
        }
    }

    /// Another count may well lead to the same root, which is why the signature covers it. It must never
    /// lead there with a path of another length.
    #[test]
    fn a_path_of_another_length_has_no_root() {
        let entries = entries(7);
        let tree = tree(&entries);
        let nodes: Vec<u8> = tree.path(2).flatten().copied().collect();
        let leaf = leaf(&entries[2]);
        assert_eq!(root_of_path(leaf, 2, 7, &nodes), Some(tree.root()));
        for len in (0..nodes.len()).chain([nodes.len() + 1, nodes.len() + HASH_LEN]) {
            let mut changed = nodes.clone();
            changed.resize(len, 0);
            assert_eq!(root_of_path(leaf, 2, 7, &changed), None, "{len}");
        }
        for count in [1, 2, 3, 4, 9, 512] {
            assert_eq!(root_of_path(leaf, 2, count, &nodes), None, "{count}");
        }
    }

    #[test]
    fn a_node_is_no_leaf() {
        let entries = entries(4);
        let tree = tree(&entries);
        let pair = [leaf(&entries[0]), leaf(&entries[1])].concat();
        let right = node(&leaf(&entries[2]), &leaf(&entries[3]));
        assert_ne!(root_of_path(leaf(&pair), 0, 2, &right), Some(tree.root()));
    }
}
