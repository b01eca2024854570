//! `HeapSize` as `impl_heap_size!` implements it.
#![expect(dead_code, reason = "fields are there to be counted")]

use plimsoll::{HeapSize, impl_heap_size};

use super::{Endless, exact};

#[derive(Clone)]
struct Order {
    id: u64,
    customer: String,
    lines: Vec<String>,
}
impl_heap_size!(struct Order { id, customer, lines });

struct Metres(f64);
impl_heap_size!(struct Metres(length));

struct Marker;
impl_heap_size!(struct Marker);

enum Shape {
    Unit,
    Circle(Metres),
    Named(String, Box<u64>),
    Polygon { points: Vec<(f64, f64)>, label: String },
}
impl_heap_size!(enum Shape { Unit, Circle(radius), Named(name, code), Polygon { points, label } });

enum Only {
    Single(u8),
}
impl_heap_size!(
    enum Only {
        Single(byte),
    }
);

struct Page<'a, K, V> {
    title: &'a str,
    rows: Vec<(K, V)>,
}
impl_heap_size!(struct Page<'a, K, V> { title, rows });

enum Tree<T> {
    Leaf(T),
    Node { left: Box<Tree<T>>, right: Box<Tree<T>> },
}
impl_heap_size!(enum Tree<T> { Leaf(value), Node { left, right } });

/// A type without `HeapSize`.
struct Foreign;

struct Stamped<T> {
    at: Foreign,
    value: T,
}
impl_heap_size!(struct Stamped<T> { at: _, value });

struct Pair(Foreign, String);
impl_heap_size!(struct Pair(_, text));

#[test]
fn macro_struct_is_the_sum_of_its_fields() {
    let order = Order { id: 1, customer: "Ada".into(), lines: vec!["tea".into(), "rope".into()] };
    exact(|| order.clone());
    exact(|| vec![order.clone(); 3]);
    exact(|| Metres(1.0));
    exact(|| Marker);
    let (title, key) = (String::from("borrowed"), Some(Box::new(1)));
    exact(|| Page { title: &title, rows: vec![(key.clone(), 2_u8)] });
}

#[test]
fn macro_enum_is_the_sum_of_each_variant() {
    exact(|| Shape::Unit);
    exact(|| Shape::Circle(Metres(1.0)));
    exact(|| Shape::Named("square".into(), Box::new(4)));
    exact(|| Shape::Polygon { points: vec![(0.0, 1.0); 5], label: "five".into() });
    exact(|| Only::Single(1));
    exact(|| {
        let leaf = |text: &str| Box::new(Tree::Leaf(text.to_owned()));
        Tree::Node { left: leaf("a"), right: Box::new(Tree::Node { left: leaf("bc"), right: leaf("") }) }
    });
}

#[test]
fn macro_owns_heap_is_true_if_a_field_owns() {
    assert!(Order::owns_heap() && Shape::owns_heap() && Tree::<u8>::owns_heap() && Pair::owns_heap());
    assert!(!Metres::owns_heap() && !Marker::owns_heap() && !Only::owns_heap());
    assert!(Page::<u8, u8>::owns_heap() && Stamped::<String>::owns_heap() && !Stamped::<&str>::owns_heap());
}

#[test]
fn macro_field_marked_as_skipped_counts_as_zero() {
    let stamped = Stamped { at: Foreign, value: String::from("text") };
    let pair = Pair(Foreign, String::from("texts"));
    assert_eq!((stamped.heap_size(), pair.heap_size()), (4, 5));
}

#[test]
fn macro_sum_beyond_usize_saturates() {
    struct Both {
        first: Endless,
        second: Endless,
    }
    impl_heap_size!(struct Both { first, second });

    assert_eq!(Both { first: Endless, second: Endless }.heap_size(), usize::MAX);
}
