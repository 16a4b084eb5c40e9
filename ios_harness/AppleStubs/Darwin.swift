// What the probes use of the C library and Mach.

/// https://developer.apple.com/documentation/kernel/mach_port_t
public typealias mach_port_t = UInt32
/// https://developer.apple.com/documentation/kernel/natural_t
public typealias natural_t = UInt32
/// https://developer.apple.com/documentation/kernel/integer_t
public typealias integer_t = Int32
/// https://developer.apple.com/documentation/kernel/kern_return_t
public typealias kern_return_t = Int32
/// https://developer.apple.com/documentation/kernel/mach_msg_type_number_t
public typealias mach_msg_type_number_t = UInt32
/// https://developer.apple.com/documentation/kernel/task_flavor_t
public typealias task_flavor_t = UInt32

/// https://developer.apple.com/documentation/kernel/task_vm_info_data_t
public struct task_vm_info_data_t {
    public init() {}
    public var phys_footprint: UInt64 = 0
    public var ledger_phys_footprint_peak: Int64 = 0
}

/// https://developer.apple.com/documentation/kernel/mach_task_self_
nonisolated(unsafe) public var mach_task_self_: mach_port_t = 0
/// https://developer.apple.com/documentation/kernel/task_vm_info
public var TASK_VM_INFO: Int32 { 22 }
/// https://developer.apple.com/documentation/kernel/kern_success
public var KERN_SUCCESS: Int32 { 0 }

/// https://developer.apple.com/documentation/kernel/1537934-task_info
public func task_info(
    _ task: mach_port_t, _ flavor: task_flavor_t, _ info: UnsafeMutablePointer<integer_t>!, _ count: UnsafeMutablePointer<mach_msg_type_number_t>!
) -> kern_return_t { fatalError() }

/// https://developer.apple.com/documentation/kernel/1387446-sysctlbyname
public func sysctlbyname(
    _ name: UnsafePointer<CChar>!, _ old: UnsafeMutableRawPointer!, _ oldSize: UnsafeMutablePointer<Int>!, _ new: UnsafeMutableRawPointer!,
    _ newSize: Int
) -> Int32 { fatalError() }

/// https://developer.apple.com/library/archive/documentation/System/Conceptual/ManPages_iPhoneOS/man3/exit.3.html
public func exit(_ status: Int32) -> Never { fatalError() }
/// https://developer.apple.com/library/archive/documentation/System/Conceptual/ManPages_iPhoneOS/man3/math.3.html
public func log(_ x: Double) -> Double { x }
/// https://developer.apple.com/library/archive/documentation/System/Conceptual/ManPages_iPhoneOS/man3/math.3.html
public func log10(_ x: Double) -> Double { x }
/// https://developer.apple.com/library/archive/documentation/System/Conceptual/ManPages_iPhoneOS/man3/math.3.html
public func sin(_ x: Double) -> Double { x }
/// https://developer.apple.com/library/archive/documentation/System/Conceptual/ManPages_iPhoneOS/man3/math.3.html
public func cos(_ x: Double) -> Double { x }
