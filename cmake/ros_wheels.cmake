# For building on the ROS wheels of requirements/ros.txt; a ROS install needs none of this.
# Passed from outside: cmake -DCMAKE_PROJECT_INCLUDE=cmake/ros_wheels.cmake
#
# Targets that the wheels export name include directories of the machine that built them (its Python
# and numpy). CMake refuses to generate with a directory that does not exist, so these are dropped
# from every imported target once the whole CMakeLists.txt has been read.

function(_drop_missing_include_directories)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT directories)
      continue()
    endif()
    set(existing)
    foreach(directory IN LISTS directories)
      if(directory MATCHES "^\\$<" OR EXISTS "${directory}")
        list(APPEND existing "${directory}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endforeach()
endfunction()

cmake_language(DEFER CALL _drop_missing_include_directories)
