//! The macro that implements `HeapSize` from the names of the fields.

/// Implements [`HeapSize`](crate::HeapSize) for a struct or an enum of the calling module, from the names of its fields.
///
/// The heap size in bytes is the sum over the named fields, saturating at `usize::MAX`. `owns_heap()` returns `true` if
/// it does for any of their types. The macro destructures the type without `..`: a field or a variant that it does not
/// name is a compile error.
///
/// A field marked `_` counts as zero bytes: `{ at: _ }` in braces, `_` in parentheses. Use it for types that own no heap
/// and have no `HeapSize`, such as a date of another crate.
///
/// Lifetimes and type parameters are written as in the type, without bounds; each type parameter is bound by `HeapSize`.
/// Types with const parameters, or with bounds of their own, need an `impl` by hand.
///
/// # Examples
///
/// ```
/// use plimsoll::{HeapSize, impl_heap_size};
///
/// struct Order {
///     id: u64,
///     customer: String,
///     lines: Vec<String>,
/// }
/// impl_heap_size!(struct Order { id, customer, lines });
///
/// let order = Order { id: 7, customer: "Ada".into(), lines: vec!["tea".into(), "rope".into()] };
/// assert_eq!(order.heap_size(), 3 + 2 * size_of::<String>() + 3 + 4);
/// # assert_eq!(order.id, 7);
/// ```
///
/// Tuple structs, enums, parameters, and a field that is not counted:
///
/// ```
/// use plimsoll::{HeapSize, impl_heap_size};
///
/// struct Metres(f64);
/// impl_heap_size!(struct Metres(length));
///
/// enum Shape {
///     Unit,
///     Circle(Metres),
///     Polygon { points: Vec<(f64, f64)> },
/// }
/// impl_heap_size!(enum Shape { Unit, Circle(radius), Polygon { points } });
///
/// struct Page<'a, T> {
///     title: &'a str,
///     rows: Vec<T>,
///     read_at: std::rc::Weak<()>,
/// }
/// impl_heap_size!(struct Page<'a, T> { title, rows, read_at: _ });
///
/// assert!(!Metres::owns_heap() && Shape::owns_heap());
/// assert_eq!(Shape::Polygon { points: vec![(0.0, 1.0)] }.heap_size(), 16);
/// # assert_eq!(Shape::Circle(Metres(1.0)).heap_size() + Shape::Unit.heap_size(), 0);
/// # let page = Page { title: "a", rows: vec![String::from("b")], read_at: Default::default() };
/// # assert_eq!(page.heap_size(), size_of::<String>() + 1);
/// ```
///
/// A forgotten field does not compile:
///
/// ```compile_fail
/// struct Order {
///     id: u64,
///     lines: Vec<String>,
/// }
/// plimsoll::impl_heap_size!(struct Order { id }); // error: pattern requires `..`
/// ```
///
/// Nor does a forgotten variant:
///
/// ```compile_fail,E0004
/// enum Shape {
///     Unit,
///     Named(String),
/// }
/// plimsoll::impl_heap_size!(enum Shape { Unit }); // error: non-exhaustive patterns
/// ```
#[macro_export]
macro_rules! impl_heap_size {
    // The body of a struct or a variant, `$body`, is one token tree: first a pattern, then a list of fields.
    (struct $name:ident < $($life:lifetime),* $(,)? $($param:ident),* > $($body:tt)*) => {
        $crate::weigh::impl_heap_size!(@impl [$name [$($life),*] [$($param),*]] [[$name] $($body)*]);
    };
    (struct $name:ident $($body:tt)*) => {
        $crate::weigh::impl_heap_size!(@impl [$name [] []] [[$name] $($body)*]);
    };
    (enum $name:ident $(< $($life:lifetime),* $(,)? $($param:ident),* >)? { $($variants:tt)+ }) => {
        $crate::weigh::impl_heap_size!(@variants [$name [$($($life),*)?] [$($($param),*)?]] [] $($variants)+);
    };

    // Takes the variants one by one into a list: `[[Shape::Unit]] [[Shape::Circle] (radius)]`.
    (@variants $type:tt [$($done:tt)*]) => {
        $crate::weigh::impl_heap_size!(@impl $type $($done)*);
    };
    (@variants [$name:ident $($generics:tt)*] [$($done:tt)*] $variant:ident $(, $($rest:tt)*)?) => {
        $crate::weigh::impl_heap_size!(
            @variants [$name $($generics)*] [$($done)* [[$name::$variant]]] $($($rest)*)?
        );
    };
    (@variants [$name:ident $($generics:tt)*] [$($done:tt)*] $variant:ident $body:tt $(, $($rest:tt)*)?) => {
        $crate::weigh::impl_heap_size!(
            @variants [$name $($generics)*] [$($done)* [[$name::$variant] $body]] $($($rest)*)?
        );
    };

    (@impl [$name:ident [$($life:lifetime),*] [$($param:ident),*]] $([[$($path:tt)+] $($body:tt)*])+) => {
        impl<$($life,)* $($param: $crate::weigh::HeapSize),*> $crate::weigh::HeapSize for $name<$($life,)* $($param),*> {
            fn heap_size(&self) -> usize {
                match self {
                    $($($path)+ $($body)* => $crate::weigh::impl_heap_size!(@sum $($body)*),)+
                }
            }

            // The closures are never called. Their return types carry the types of the fields, which the macro does
            // not know: `Circle(radius)` with a radius of `f64` returns `Option<((), PhantomData<f64>)>`.
            fn owns_heap() -> bool {
                use $crate::weigh::fields::Fields as _;

                false $(|| $crate::weigh::fields::own_heap(|value: &Self| match value {
                    $($path)+ $($body)* => {
                        ::core::option::Option::Some($crate::weigh::impl_heap_size!(@types $($body)*))
                    }
                    _ => ::core::option::Option::None,
                }))+
            }
        }
    };

    (@sum) => { 0_usize };
    (@sum ( $($part:tt),* $(,)? )) => {
        0_usize $(.saturating_add(
            $crate::weigh::HeapSize::heap_size($crate::weigh::impl_heap_size!(@counted $part))
        ))*
    };
    (@sum { $($field:ident $(: $skip:tt)?),* $(,)? }) => {
        0_usize $(.saturating_add(
            $crate::weigh::HeapSize::heap_size($crate::weigh::impl_heap_size!(@counted $field $(: $skip)?))
        ))*
    };
    (@types) => { () };
    (@types ( $($part:tt),* $(,)? )) => {
        () $(.with_field($crate::weigh::impl_heap_size!(@counted $part)))*
    };
    (@types { $($field:ident $(: $skip:tt)?),* $(,)? }) => {
        () $(.with_field($crate::weigh::impl_heap_size!(@counted $field $(: $skip)?)))*
    };
    (@counted _) => { &() };
    (@counted $field:ident) => { $field };
    (@counted $field:ident : _) => { &() };
}

pub use impl_heap_size;

/// Helpers of the code that [`impl_heap_size!`] expands to. Not for direct use.
#[doc(hidden)]
pub mod fields {
    use std::marker::PhantomData;

    use crate::weigh::HeapSize;

    /// A list of field types, as nested pairs: `(((), PhantomData<A>), PhantomData<B>)`.
    pub trait Fields: Sized {
        /// Returns `true` if a type of the list can own heap.
        fn own_heap() -> bool;

        /// Adds the type of a field.
        fn with_field<F: HeapSize>(self, _: &F) -> (Self, PhantomData<F>) {
            (self, PhantomData)
        }
    }

    impl Fields for () {
        fn own_heap() -> bool {
            false
        }
    }

    impl<L: Fields, F: HeapSize> Fields for (L, PhantomData<F>) {
        fn own_heap() -> bool {
            L::own_heap() || F::owns_heap()
        }
    }

    /// Returns `true` if a field type that `_list` would return can own heap. `_list` is not called.
    pub fn own_heap<T, L: Fields>(_list: impl Fn(&T) -> Option<L>) -> bool {
        L::own_heap()
    }
}
