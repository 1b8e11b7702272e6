# Archive areas that the image is built from. After elements that need more of them have said so.
export DIB_VLLMD_COMPONENTS=${DIB_VLLMD_COMPONENTS:-main}
